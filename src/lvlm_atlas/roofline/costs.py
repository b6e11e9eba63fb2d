"""What many stacks cost on one request: what stacks share is worked out once.

A stage depends on those techniques of a stack that change something up to it. So its time is kept by them, and a stack
is the sum of a few times that other stacks have mostly asked for before. The numbers are those of `estimate` but for
the order in which they are added up.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache

from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.layout import machine
from lvlm_atlas.roofline.masks import bits
from lvlm_atlas.roofline.memory import request_share
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.stages import host_s
from lvlm_atlas.roofline.states import SHARED, Listed, Pass, States
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.workload import Workload

TIMES = 2**16
"""How many times of a kind are remembered."""
FIGURES = frozenset({"ttft_s", "tpot_s", "total_s", "device_byte", "request_share"})
"""Figures of a cost that a search can bound."""
ROUNDING = 1 - 1e-12
"""Floors of decoding are lowered by this: times are added up in another order than for costs."""


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
        self.techniques = techniques
        self.states = States(model, workload, deployment.on(device.typical), techniques)
        self.masks, self.batch = self.states.masks, workload.batch
        self._run_on(device)

    def on(self, device: Device) -> Costs:
        """The same stacks on another device. What they leave of the request is worked out once for both.

        Raises:
            AtlasError: as of `estimate`.
        """
        states = self.states
        if self._asked.on(device.typical) != states.deployment:
            return Costs(states.layout.model, device, states.workload, self._asked, self.techniques)
        other = copy(self)
        other._run_on(device)
        return other

    def _run_on(self, device: Device) -> None:
        """Take the times of a device, of which none are known yet. Methods of the same names work them out."""
        self.memory_byte = device.memory_byte * self.states.deployment.memory_share
        self.walls, _ = machine(device, self.states.layout, self.states.deployment)
        self._parts: dict[Hashable, float] = {}
        self._encoding_s = lru_cache(TIMES)(self._time_encoding)
        self._prefilling_s = lru_cache(TIMES)(self._time_prefilling)
        self._decoding = lru_cache(TIMES)(self._time_decoding)
        self._least_decoding = lru_cache(TIMES)(self._time_least_decoding)
        self._attention_s = lru_cache(TIMES)(self._time_attention)
        self._added = lru_cache(TIMES)(self._time_added)

    def vision_share(self, stack: int) -> float:
        """Share of the vision tokens of all LLM layers in prefilling that a stack leaves."""
        tokens = self.states.vision_tokens(0)
        return self.states.vision_tokens(stack & self.masks.tokens) / tokens if tokens else 1.0

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
        for index in bits(stack & masks.overhead):
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
            device_byte = self.states.least_byte(stack & (masks.encoding | masks.decoded))
        elif not rough and not {"device_byte", "request_share"}.isdisjoint(figures):
            device_byte, share = self._memory(stack & masks.decoded, 0.0)
        return Cost(
            encoding_s, first_s, decoding_s, encoding_s + first_s, decoding_s / steps if steps else 0.0, device_byte,
            share,
        )  # fmt: skip

    def _memory(self, stack: int, kept_byte: float) -> tuple[float, float]:
        """What one device must hold, with what techniques keep, and the share of it that a request takes."""
        held = self.states.held_byte(stack)
        if kept_byte:
            held = {**held, "techniques": kept_byte}
        passes = self.states.activations(stack & self.masks.tokens)
        return sum(held.values()), request_share(held, passes, self.batch, self.memory_byte)

    def _decoding_floor(self, stack: int, *, rough: bool) -> tuple[int, float]:
        """Tokens after the first of each answer, and a lower bound on the time of decoding them."""
        masks = self.masks
        least = self._least_decoding(stack & masks.answered if stack & masks.paced else 0)
        attention_s = 0.0
        if not rough and stack & masks.drafts:
            # A draft changes the passes, and each attends to the cache at least as a plain step does.
            attention_s = self._attention_s(stack & masks.decoded & ~masks.drafts)
        return least.steps, least.time_s(attention_s) * ROUNDING

    def _time_encoding(self, stack: int) -> tuple[float, float]:
        """Time of encoding, and the least that it takes whatever techniques add."""
        encoding = self.states.encoding(stack)
        return self._time_s(encoding.parts), encoding.floor_s

    def _time_prefilling(self, stack: int) -> tuple[float, float]:
        """The same of the first pass over the prompt."""
        prefilling = self.states.prefilling(stack)
        return self._time_s(prefilling.parts), prefilling.floor_s

    def _time_decoding(self, stack: int) -> _Decoding:
        questions = self.states.questions(stack)
        question_s = sum(each.times * max(self._time_s(each.parts), each.floor_s) for each in questions)
        return self._passes(stack, self.states.decoding(stack), question_s)

    def _time_least_decoding(self, stack: int) -> _Decoding:
        return self._passes(stack, self.states.least_decoding(stack), 0.0)

    def _passes(self, stack: int, steps: Iterable[Pass], question_s: float) -> _Decoding:
        passes = tuple((step.times, self._time_s(step.parts), step.floor_s) for step in steps if step.times)
        output = self.states.answered(stack & self.masks.answered).output
        return _Decoding(self.states.workload.turns * (output - 1), passes, question_s)

    def _time_attention(self, stack: int) -> float:
        """Mean time of a plain step's attention."""
        return self._time_s(self.states.attention(stack))

    def _time_added(self, index: int, stack: int) -> _Added:
        """What a technique adds in a stack."""
        works, byte = self.states.addition(index, stack)
        encoding_s, prefilling_s, step_s = (sum(map(self.walls.time_s, each)) for each in works)
        return _Added(encoding_s, prefilling_s, step_s, (host_s(works[0]), host_s(works[1]), host_s(works[2])), byte)

    def _time_s(self, parts: Iterable[Listed]) -> float:
        """How long parts take; what those with a key take is remembered."""
        total, time_s = 0.0, self.walls.time_s
        for works, layers, key in parts:
            if key is None:
                total += sum(map(time_s, works))
                continue
            if key not in self._parts:
                if len(self._parts) >= TIMES:
                    self._parts.clear()
                self._parts[key] = sum(map(time_s, works))
            total += layers * self._parts[key]
        return total
