"""What many stacks cost on one request: what stacks share is worked out once.

A stage depends on those techniques of a stack that change something up to it. So its time is kept by them, and a stack
is the sum of a few times that other stacks have mostly asked for before. The numbers are those of `estimate` but for
the order in which they are added up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache

from lvlm_atlas.roofline.activations import Activations, activations, of_encoder
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.dimensions import dimensions
from lvlm_atlas.roofline.kind import prompt_layers
from lvlm_atlas.roofline.layout import layout, machine
from lvlm_atlas.roofline.memory import on_a_device, request_share, resident_byte
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.overhead import extras
from lvlm_atlas.roofline.pipeline import Walk
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.roofline.stages import HeldLayers, Part, Stages, Step, host_s
from lvlm_atlas.roofline.state import Answered, Cached, Encoded, Prefilled, Shares
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.workload import Workload

RECORDS, TIMES = 2**12, 2**16
"""How many states and how many times of a kind are remembered; a state of 28 layers takes some 2 kB."""
FIGURES = frozenset({"ttft_s", "tpot_s", "total_s", "device_byte", "request_share"})
"""Figures of a cost that a search can bound."""
SHARED = 2
"""Sub-stacks of so many techniques are part of many stacks."""
ROUNDING = 1 - 1e-12
"""Floors of decoding are lowered by this: times are added up in another order than for costs."""
_ENTERING = ("frames", "pixels", "encoder.tokens", "vision-tokens", "text-tokens")
_ENCODING = ("frames", "pixels", "encoder.flop", "encoder.density", "encoder.tokens", "adapter.flop")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stack costs; see `Estimate`."""

    encoding_s: float
    """Time of encoding."""
    prefilling_s: float
    """Time of prefilling, all turns."""
    decoding_s: float
    """Time of decoding, all turns."""
    ttft_s: float
    """Time to the first token."""
    tpot_s: float
    """Time per output token after the first."""
    device_byte: float
    """What one device must hold."""
    request_share: float
    """Share of what a device has left for requests that one takes."""

    @property
    def total_s(self) -> float:
        """Time of the whole request."""
        return self.encoding_s + self.prefilling_s + self.decoding_s


@dataclass(frozen=True, slots=True)
class _Added:
    """What a technique adds: seconds of the first two stages and of a step, bytes of a device."""

    encoding_s: float
    prefilling_s: float
    step_s: float
    host_s: tuple[float, float, float]
    """The host's part of each of these."""
    device_byte: float


@dataclass(frozen=True, slots=True)
class _Decoding:
    """Decoding, without what techniques add."""

    steps: int
    """Tokens generated after the first of each answer."""
    passes: tuple[tuple[float, float, float], ...]
    """Passes of the model, by their kind: how many, the time of one, and the least that one takes. Plain steps, those
    of drafts in their share of one, and verifying passes."""
    question_s: float
    """Time in which further questions are read."""

    def time_s(self, added_s: float = 0.0, host_s: float = 0.0) -> float:
        """Time of all passes, each of which takes so much longer, so much of it on the host."""
        return sum(
            number * max(time_s + added_s, floor_s + host_s if floor_s else 0.0)
            for number, time_s, floor_s in self.passes
        )


class _Masks:
    """For each stretch of the pipeline, the techniques that change something up to it: bit i stands for technique i."""

    def __init__(self, techniques: Sequence[Applied]) -> None:
        acts: dict[str, int] = defaultdict(int)
        for index, technique in enumerate(techniques):
            for change in technique.changes:
                acts[change.quantity] |= 1 << index
            acts["speculation"] |= bool(technique.speculation) << index
            acts["kv.bits"] |= bool(technique.cache_bits) << index
            acts["overhead"] |= bool(technique.overheads) << index
            acts["state"] |= bool(technique.changes or technique.cache_bits) << index
        # Tokens that change before the adapter decide its rows; changes before them decide what they leave.
        adapter = max((c.order for each in techniques for c in each.changes if c.before_adapter), default=-1)
        for index, technique in enumerate(techniques):
            orders = [change.order for change in technique.changes if change.quantity == "vision-tokens"]
            acts["adapter"] |= any(order <= adapter for order in orders) << index
        self.encoding = _union(acts, (*_ENCODING, "adapter"))
        self.entering = _union(acts, _ENTERING)
        """Techniques that change what enters the LLM, or what symbols stand for there."""
        self.encoded = self.encoding | self.entering
        self.tokens = self.entering | acts["llm.vision-tokens"]
        self.shares = acts["llm.weights"] | acts["kv.layers"]
        self.prefilled = self.tokens | self.shares | _union(
            acts, ("llm.vision-queries", "llm.vision-mlp", "attention.density", "kv.state")
        )  # fmt: skip
        self.entries = self.tokens | acts["kv.tokens"] | acts["kv.state"]
        self.cached = self.entries | self.shares | _union(acts, ("kv.resident", "kv.read", "kv.bits"))
        self.paced = self.shares | _union(acts, ("output-tokens", "speculation", "llm.depth"))
        """Techniques that change the passes of decoding."""
        self.answered = self.entering | self.paced
        self.decoded = self.cached | self.answered
        self.drafts = acts["speculation"] & ~acts["state"]
        """Techniques that draft and do nothing else."""
        self.overhead = acts["overhead"]
        outside_cache = self.encoded | acts["output-tokens"]
        self.before_overhead = [
            outside_cache
            | (self.entries if any(extra.stage == "decoding" for extra in each.overheads) else 0)
            | (self.tokens if any(extra.from_layer is not None for extra in each.overheads) else 0)
            for each in techniques
        ]
        """For each technique, those that what it adds depends on."""


class Costs:
    """What stacks of some techniques cost on a request. A stack is a number: bit i stands for technique i.

    Args:
        model: the model.
        device: the device.
        workload: the request.
        deployment: how the model is run.
        techniques: the techniques, in pipeline order.

    Raises:
        AtlasError: as of `estimate`.
    """

    def __init__(
        self, model: Model, device: Device, workload: Workload, deployment: Deployment, techniques: Sequence[Applied]
    ) -> None:
        self._asked = deployment
        deployment = deployment.on(device.typical)
        self.workload, self.deployment, self.techniques = workload, deployment, techniques
        self.layout = layout(model, workload.batch, deployment)
        self.dimensions = dimensions(self.layout, workload)
        self.stages = Stages(self.layout, workload)
        self.masks = _Masks(techniques)
        # What a sub-stack leaves of the request, and how long that takes. Methods of the same names work them out.
        self._encoded = lru_cache(RECORDS)(self._encode)
        self._prefilled = lru_cache(RECORDS)(self._prefill)
        self._cached = lru_cache(RECORDS)(self._cache)
        self._answered = lru_cache(RECORDS)(self._answer)
        self._held = lru_cache(RECORDS)(self._hold_on_average)
        self._held_byte = lru_cache(TIMES)(self._hold)
        self._activations = lru_cache(TIMES)(self._activate)
        self._vision = lru_cache(TIMES)(self._count_vision)
        self._encoder_byte = lru_cache(TIMES)(self._activate_encoder)
        self._run_on(device)

    def on(self, device: Device) -> Costs:
        """The same stacks on another device. What they leave of the request is worked out once for both.

        Raises:
            AtlasError: as of `estimate`.
        """
        if self._asked.on(device.typical) != self.deployment:
            return Costs(self.layout.model, device, self.workload, self._asked, self.techniques)
        other = copy(self)
        other._run_on(device)
        return other

    def _run_on(self, device: Device) -> None:
        """Take the times of a device, of which none are known yet."""
        self.memory_byte = device.memory_byte * self.deployment.memory_share
        self.walls, _ = machine(device, self.layout, self.deployment)
        self._parts: dict[Hashable, float] = {}
        self._encoding_s = lru_cache(TIMES)(self._time_encoding)
        self._prefilling_s = lru_cache(TIMES)(self._time_prefilling)
        self._decoding = lru_cache(TIMES)(self._decode)
        self._least_decoding = lru_cache(TIMES)(self._decode_at_least)
        self._attention_s = lru_cache(TIMES)(self._time_attention)
        self._added = lru_cache(TIMES)(self._add)

    def vision_share(self, stack: int) -> float:
        """Share of the vision tokens of all LLM layers in prefilling that a stack leaves."""
        tokens = self._vision(0)
        return self._vision(stack & self.masks.tokens) / tokens if tokens else 1.0

    def of(self, stack: int, *, memory: bool = True) -> Cost:
        """What a stack costs.

        Args:
            stack: the stack.
            memory: whether bytes are wanted; else `device_byte` comes out as what techniques keep alone.
        """
        masks = self.masks
        encoding_s, encoding_floor_s = self._encoding_s(stack & masks.encoding)
        first_s, first_floor_s = self._prefilling_s(stack & masks.prefilled)
        decoding = self._decoding(stack & masks.decoded)
        step_s = step_host_s = kept_byte = 0.0
        for index in _bits(stack & masks.overhead):
            added = self._added(index, stack & masks.before_overhead[index])
            encoding_s += added.encoding_s
            first_s += added.prefilling_s
            step_s += added.step_s
            kept_byte += added.device_byte
            if any(added.host_s):
                encoding_floor_s += added.host_s[0] if encoding_floor_s else 0.0
                first_floor_s += added.host_s[1] if first_floor_s else 0.0
                step_host_s += added.host_s[2]
        device_byte, share = self._memory(stack & masks.decoded, kept_byte) if memory else (kept_byte, 0.0)
        encoding_s, first_s = max(encoding_s, encoding_floor_s), max(first_s, first_floor_s)
        decoding_s = decoding.time_s(step_s, step_host_s)
        return Cost(
            encoding_s, first_s + decoding.question_s, decoding_s, encoding_s + first_s,
            decoding_s / decoding.steps if decoding.steps else 0.0, device_byte, share,
        )  # fmt: skip

    def floor(self, stack: int, figures: Collection[str] = FIGURES, *, rough: bool = False) -> Cost:
        """Lower bounds of some figures of a stack, for less work than `of`; other figures may come out as 0.

        What is left out is never negative: further questions, what techniques add, and the attention of decoding, but
        for stacks with a draft, which share it with those without.

        Args:
            stack: the stack.
            figures: names of the figures, of `FIGURES`.
            rough: leave out more: the prompt where more than two techniques decide its time, all attention of decoding,
                in memory the cache and the prompt's activations, and all of `request_share`.
        """
        masks = self.masks
        encoding_s = first_s = decoding_s = device_byte = share = 0.0
        steps = 0
        if "ttft_s" in figures or "total_s" in figures:
            encoding_s = max(self._encoding_s(stack & masks.encoding))
            prompt = stack & masks.prefilled
            if not rough or prompt.bit_count() <= SHARED:
                first_s = max(self._prefilling_s(prompt))
        if "tpot_s" in figures or "total_s" in figures:
            steps, decoding_s = self._decoding_floor(stack, rough=rough)
        if rough and "device_byte" in figures:
            device_byte = self._rough_byte(stack)
        elif not rough and not {"device_byte", "request_share"}.isdisjoint(figures):
            device_byte, share = self._memory(stack & masks.decoded, 0.0)
        return Cost(
            encoding_s, first_s, decoding_s, encoding_s + first_s, decoding_s / steps if steps else 0.0, device_byte,
            share,
        )  # fmt: skip

    def _memory(self, stack: int, kept_byte: float) -> tuple[float, float]:
        """What one device must hold, with what techniques keep, and the share of it that a request takes."""
        held = self._held_byte(stack)
        if kept_byte:
            held = {**held, "techniques": kept_byte}
        passes = self._activations(stack & self.masks.tokens)
        return sum(held.values()), request_share(held, passes, self.workload.batch, self.memory_byte)

    def _decoding_floor(self, stack: int, *, rough: bool) -> tuple[int, float]:
        """Tokens after the first of each answer, and a lower bound on the time of decoding them."""
        masks = self.masks
        least = self._least_decoding(stack & masks.answered if stack & masks.paced else 0)
        attention_s = 0.0
        if not rough and stack & masks.drafts:
            # A draft changes the passes, and each attends to the cache at least as a plain step does.
            attention_s = self._attention_s(stack & masks.decoded & ~masks.drafts)
        return least.steps, least.time_s(attention_s) * ROUNDING

    def _rough_byte(self, stack: int) -> float:
        """What one device must hold at least, without the cache."""
        tokens = stack & self.masks.tokens
        if tokens.bit_count() <= SHARED:
            activation = self._activations(tokens).of(self.workload.batch)
        else:
            activation = self._encoder_byte(stack & self.masks.encoding)
        shares = self._answered(stack & self.masks.answered).shares if stack & self.masks.shares else Shares()
        return sum(on_a_device(self.layout, self.deployment, 0, activation, 0, shares).values())

    def _walk(self, stack: int) -> Walk:
        return Walk(self.dimensions, [self.techniques[index] for index in _bits(stack)])

    def _encode(self, stack: int) -> Encoded:
        return self._walk(stack).encoded()

    def _prefill(self, stack: int) -> Prefilled:
        return self._walk(stack).prefilled(self._encoded(stack & self.masks.entering))

    def _count_vision(self, stack: int) -> float:
        return sum(self._prefilled(stack).vision)

    def _cache(self, stack: int) -> Cached:
        prefilled = self._prefilled(stack & self.masks.tokens)  # what density is does not matter from here on
        return self._walk(stack).cached(self._encoded(stack & self.masks.entering), prefilled)

    def _answer(self, stack: int) -> Answered:
        return self._walk(stack).answered(self._encoded(stack & self.masks.entering))

    def _time_encoding(self, stack: int) -> tuple[float, float]:
        """Time of encoding, and the least that it takes whatever techniques add."""
        encoded = self._encoded(stack)
        return self._time_s(self.stages.encoding(encoded)), self.stages.encoding_floor_s(encoded)

    def _time_prefilling(self, stack: int) -> tuple[float, float]:
        """The same of the first pass over the prompt."""
        prefilled = self._prefilled(stack)
        return self._time_s(self.stages.prefilling(prefilled)), self.stages.prefilling_floor_s(prefilled)

    def _decode(self, stack: int) -> _Decoding:
        cached, answered = self._cached(stack & self.masks.cached), self._answered(stack & self.masks.answered)
        questions = self.stages.questions(cached, answered)
        question_s = sum(each.times * max(self._time_s(each.parts), each.floor_s) for each in questions)
        held = self._held(stack & self.masks.cached, answered.output)
        return self._decoded(answered, self.stages.decoding(cached, answered, held), question_s)

    def _hold_on_average(self, stack: int, output: int) -> list[HeldLayers]:
        return self.stages.held(self._cached(stack), output)

    def _decode_at_least(self, stack: int) -> _Decoding:
        answered = self._answered(stack)
        return self._decoded(answered, self.stages.decoding_but_attention(answered), 0.0)

    def _decoded(self, answered: Answered, steps: Iterable[Step], question_s: float) -> _Decoding:
        passes = tuple((step.times, self._time_s(step.parts), step.floor_s) for step in steps if step.times)
        return _Decoding(self.workload.turns * (answered.output - 1), passes, question_s)

    def _time_attention(self, stack: int) -> float:
        """Mean time of a plain step's attention."""
        cached, answered = self._cached(stack & self.masks.cached), self._answered(stack & self.masks.answered)
        held = self._held(stack & self.masks.cached, answered.output)
        return self._time_s(self.stages.attention(cached, answered, held))

    def _hold(self, stack: int) -> Mapping[str, float]:
        """What one device must hold, but for what techniques keep."""
        cached, answered = self._cached(stack & self.masks.cached), self._answered(stack & self.masks.answered)
        cache_byte = resident_byte(self.stages, cached, answered)
        activation = self._activations(stack & self.masks.tokens).of(self.workload.batch)
        return on_a_device(self.layout, self.deployment, cache_byte, activation, 0, cached.shares)

    def _activate(self, stack: int) -> Activations:
        encoded, layers = (
            self._encoded(stack & self.masks.entering),
            prompt_layers(self._prefilled(stack), self.stages.places),
        )
        return activations(self.layout, encoded, layers, self.deployment.pass_tokens)

    def _activate_encoder(self, stack: int) -> float:
        one, most = of_encoder(self.layout, self._encoded(stack), self.deployment.pass_tokens)
        return min(self.workload.batch * one, most)

    def _add(self, index: int, stack: int) -> _Added:
        """What a technique adds in a stack."""
        encoded = self._encoded(stack & self.masks.encoded)
        prefilled = self._prefilled(stack & self.masks.tokens)
        entries = self._cached(stack & self.masks.entries).entries
        added = [*extras(self.techniques[index], encoded, entries, self._answered(stack & self.masks.answered))]
        works = [self.stages.added(stage, encoded, prefilled, added) for stage in STAGES]
        encoding_s, prefilling_s, step_s = (sum(map(self.walls.time_s, each)) for each in works)
        on_host = host_s(works[0]), host_s(works[1]), host_s(works[2])
        byte = self.layout.batch * sum(extra.memory_byte for extra in added) / self.deployment.devices
        return _Added(encoding_s, prefilling_s, step_s, on_host, byte)

    def _time_s(self, parts: Iterable[Part]) -> float:
        """How long parts take; what those with a key take is remembered."""
        total, time_s = 0.0, self.walls.time_s
        for works, layers, key in parts:
            if key is None:
                total += sum(map(time_s, works(layers)))
                continue
            if key not in self._parts:
                if len(self._parts) >= TIMES:
                    self._parts.clear()
                self._parts[key] = sum(map(time_s, works(1)))
            total += layers * self._parts[key]
        return total


def _union(acts: Mapping[str, int], quantities: Iterable[str]) -> int:
    union = 0
    for quantity in quantities:
        union |= acts.get(quantity, 0)
    return union


def _bits(stack: int) -> Iterator[int]:
    """Places of the ones in a number, ascending."""
    while stack:
        low = stack & -stack
        yield low.bit_length() - 1
        stack ^= low
