"""The estimate: from a model, a device, a request and techniques to time, memory, energy and what bounds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline import units
from lvlm_atlas.roofline.assumptions import assumptions
from lvlm_atlas.roofline.decoding import decoding, operators, repeated
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.dimensions import dimensions
from lvlm_atlas.roofline.layout import layout, machine
from lvlm_atlas.roofline.memory import Memory, largest_batch, memory, request_share
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.operator import Operator
from lvlm_atlas.roofline.pipeline import Walk
from lvlm_atlas.roofline.reading import read_as
from lvlm_atlas.roofline.stage import STAGES, Stage, summed
from lvlm_atlas.roofline.stages import Stages
from lvlm_atlas.roofline.state import State
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.vision import frames_asked, frames_read
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.rows import frame, markdown


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Estimate:
    """What a request costs. Tokens are those of one request; bytes and FLOPs count the batch and all devices; times
    are those of the batch.
    """

    model: Model
    device: Device
    workload: Workload
    deployment: Deployment
    stack: tuple[Applied, ...]
    """The techniques, in pipeline order."""
    dtype: str
    """Type of numbers whose peak the products were held against."""
    state: State
    """What the stack leaves of the request."""
    stages: Mapping[str, Stage]
    """The stages by name."""
    flop: Mapping[str, float]
    """FLOPs of the passes over the prompt: `encoder_linear`, `adapter_linear`, `llm_linear` and `attention`."""
    memory: Memory
    """What lies in device memory."""
    ttft_s: float
    """Time to the first token: encoding and the first pass over the prompt."""
    tpot_s: float
    """Time per output token after the first, on average."""
    total_s: float
    """Time of the whole request, all turns."""
    visual_kv_share: float
    """Share of vision entries of the cache in the bytes that decoding moves: the visual memory wall."""
    assumptions: tuple[str, ...]
    """What was taken for granted."""

    def __repr__(self) -> str:
        stack = f" with {' + '.join(each.label for each in self.stack)}" if self.stack else ""
        return (
            f"<Estimate {self.model.id} on {self.device.id}, {self.workload.id}{stack}: ttft {self.ttft_s:.4g} s, "
            f"tpot {self.tpot_s:.4g} s, {self.memory.device_byte / 1e9:.4g} GB>"
        )

    def _repr_markdown_(self) -> str:
        columns = ("stage", "time", "bound", "FLOP", "bytes")
        rows = [
            (name, units.seconds(stage.time_s), stage.bound, units.flop(stage.flop), units.size(stage.byte))
            for name, stage in self.stages.items()
        ]
        sums = (
            f"ttft {units.seconds(self.ttft_s)}, tpot {units.seconds(self.tpot_s)}, total {units.seconds(self.total_s)}"
        )
        memory = f"{units.size(self.memory.device_byte)} of {units.size(self.usable_byte)}"
        return f"{markdown(columns, rows)}\n\nPredicted: {sums}, memory {memory}; {len(self.assumptions)} assumptions."

    def records(self) -> list[dict[str, Any]]:
        """A record for each stage: seconds, FLOPs, bytes, intensity, bound."""
        return [
            {
                "stage": name, "time_s": stage.time_s, "flop": stage.flop, "byte": stage.byte,
                "intensity": stage.intensity, "bound": stage.bound,
            }
            for name, stage in self.stages.items()
        ]  # fmt: skip

    def to_pandas(self) -> Any:
        """The records as a pandas frame.

        Raises:
            AtlasError: pandas is not installed.
        """
        return frame(self.records())

    @property
    def fits(self) -> bool:
        """Whether one device holds its part."""
        return self.memory.device_byte <= self.usable_byte

    @property
    def usable_byte(self) -> float:
        """What software takes of a device's memory."""
        return self.device.memory_byte * self.deployment.memory_share

    @property
    def fits_at_once(self) -> int:
        """Most requests whose caches one device holds at a time, each prefilled by itself."""
        return math.floor(1 / self.request_share) if self.request_share else self.workload.batch

    @property
    def request_share(self) -> float:
        """Share of what a device has left for requests that one takes: see `memory.request_share`."""
        memory = self.memory
        return request_share(memory.held, memory.activations, self.workload.batch, self.usable_byte)

    @property
    def fits_tokens(self) -> int:
        """Most tokens of such requests, answers included, whose entries one device caches at a time."""
        share = self.request_share
        return math.floor(self.context_tokens / share) if share else self.workload.batch * self.context_tokens

    @property
    def largest_batch(self) -> int:
        """Most requests that the devices process together, activations included: see `memory.largest_batch`."""
        memory = self.memory
        return largest_batch(memory.held, memory.activations, self.workload.batch, self.usable_byte)

    @property
    def context_tokens(self) -> int:
        """Tokens of the longest sequence that the LLM holds: those that enter it, all questions and all answers."""
        encoded, turns = self.state.encoded, self.workload.turns
        vision = encoded.marker if encoded.visual.cross_token else encoded.vision
        return round(vision) + encoded.text + (turns - 1) * self.workload.text_tokens + turns * self.state.output

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the longest prompt that the LLM reads: all of that sequence but the last answer."""
        return self.context_tokens - self.state.output

    @property
    def exceeds_context(self) -> bool:
        """Whether that is more than the model's released configuration is for; False too where that is unknown."""
        context = self.model.llm.context
        return context is not None and self.context_tokens > context

    @property
    def prompt_fits(self) -> bool | None:
        """Whether the prompt is within the model's context, so that a server takes it; None where that is unknown."""
        context = self.model.llm.context
        return None if context is None else self.prompt_tokens <= context

    @property
    def frames_read(self) -> tuple[int, int]:
        """Frames read of all videos, and those that the rates asked for come to."""
        videos = self.workload.videos
        return sum(frames_read(self.model, each) for each in videos), sum(map(frames_asked, videos))

    @property
    def output_tokens(self) -> int:
        """Tokens generated, all turns and requests."""
        return self.state.output * self.workload.turns * self.workload.batch

    @property
    def tokens_s(self) -> float:
        """Tokens generated a second while decoding, all requests together."""
        return self.workload.batch / self.tpot_s if self.tpot_s else math.inf

    @property
    def residual(self) -> float | None:
        """How far times of the runtime were off, in the median, where they were left out of its fit; None: a bound or a
        preset, or a runtime without timings.
        """
        return self.deployment.runtime.residual if self.deployment.runtime else None

    def band_s(self, time_s: float) -> tuple[float, float] | None:
        """Where half of the measured times are expected beside a predicted one; None as of `residual`."""
        return None if self.residual is None else (time_s * max(0.0, 1 - self.residual), time_s * (1 + self.residual))

    @property
    def energy_j(self) -> float | None:
        """Energy of the batch at the devices' thermal design power; None where that is not published."""
        return None if self.device.tdp_w is None else self.total_s * self.device.tdp_w * self.deployment.devices

    @property
    def cost_usd(self) -> float | None:
        """Cost of one request; None where no price is given."""
        price = self.deployment.price_usd_h
        return None if price is None else self.total_s / 3600 * price * self.deployment.devices / self.workload.batch

    @property
    def bottleneck(self) -> str:
        """The stage that takes longest."""
        return max(STAGES, key=lambda name: self.stages[name].time_s)


def estimate(
    model: Model,
    device: Device,
    workload: Workload,
    deployment: Deployment | None = None,
    stack: Sequence[Applied] = (),
) -> Estimate:
    """What a request costs on a device, with a stack of techniques or without.

    Each operator takes the longer of its two walls, arithmetic and memory traffic (survey, eq. 10), plus the floor of
    its kernels; operators follow one another. Decoding is evaluated at the mean length of the cache.

    Args:
        model: the model.
        device: the device; several of them are alike.
        workload: the request.
        deployment: how the model is run; None: released types, one device, ideal kernels.
        stack: techniques; those that act earlier in the pipeline come first.

    Raises:
        AtlasError: the request is nothing the model can take, or the deployment nothing that the device can run.
    """
    deployment = (deployment or Deployment()).on(device.typical)
    _check(workload)
    model, workload = read_as(model, workload)
    lay = layout(model, workload.batch, deployment)
    walls, dtype = machine(device, lay, deployment)
    in_order = tuple(sorted(stack, key=lambda each: each.order))
    state = Walk(dimensions(lay, workload), in_order).state()
    work = Stages(lay, workload)
    added = {name: work.added(name, state.encoded, state.prefilled, state.extras) for name in STAGES}

    encode = operators(
        walls, work.encoding(state.encoded, added["encoding"]), work.encoding_floor_s(state.encoded, added["encoding"])
    )
    first = operators(
        walls,
        work.prefilling(state.prefilled, added["prefilling"]),
        work.prefilling_floor_s(state.prefilled, added["prefilling"]),
    )
    later = repeated(walls, work.questions(state.cached, state.answered))
    held = work.held(state.cached, state.output)
    decode = decoding(walls, work.decoding(state.cached, state.answered, held, added["decoding"]))

    stages = {
        "encoding": summed("encoding", encode),
        "prefilling": summed("prefilling", first + later),
        "decoding": summed("decoding", decode),
    }
    ttft = sum(each.time_s for each in (*encode, *first))
    steps = workload.turns * (state.output - 1)
    tpot = sum(each.time_s for each in decode) / steps if steps else 0.0
    vision_byte = sum(each.work.vision_byte for each in decode)
    return Estimate(
        model=model, device=device, workload=workload, deployment=deployment,
        stack=in_order, dtype=dtype, state=state, stages=stages,
        flop=_flop((*encode, *first)), memory=memory(work, state, deployment),
        ttft_s=ttft, tpot_s=tpot, total_s=sum(stage.time_s for stage in stages.values()),
        visual_kv_share=vision_byte / stages["decoding"].byte if stages["decoding"].byte else 0.0,
        assumptions=assumptions(lay, device, workload, deployment, dtype, stack),
    )  # fmt: skip


def _check(workload: Workload) -> None:
    """Refuse a request that asks for nothing."""
    if not (workload.images or workload.videos or workload.text_tokens):
        raise AtlasError("the request is empty; give it text, images or a video")


def _flop(operators: Iterable[Operator]) -> dict[str, float]:
    found = {"encoder_linear": 0.0, "adapter_linear": 0.0, "llm_linear": 0.0, "attention": 0.0, "technique": 0.0}
    for each in operators:
        work = each.work
        if work.kind == "linear":
            found[f"{work.name.split('.', 1)[0]}_linear"] += work.flop
        elif work.kind in ("attention", "technique"):
            found[work.kind] += work.flop
    return found
