"""The sequences that an instance decodes together, and what a step of all of them reads."""

from __future__ import annotations

from collections import Counter

from lvlm_atlas.roofline.state import Draft
from lvlm_atlas.serving.shape import Reads, Shape

_NONE = Reads(0.0, 0.0, 0.0, 0.0, 0.0)


class Decoding:
    """A batch that changes by one sequence at a time. Sums are kept, so that a step costs the same however many it has.

    Sequences are told apart by keys of the caller's.
    """

    def __init__(self) -> None:
        self.count = 0
        self.kinds: Counter[Shape] = Counter()
        self._even = [*_NONE]
        self._slope = [*_NONE]
        self._uneven: dict[int, tuple[Shape, float]] = {}
        self._grown = 0.0
        """Tokens that each sequence has grown by since the batch was empty."""

    def add(self, key: int, kind: Shape, grown: float) -> None:
        """A sequence whose next step sees `grown` tokens after the prompt, its own among them."""
        self.count += 1
        self.kinds[kind] += 1
        if kind.even:
            start, slope = kind.line()
            for index in range(5):
                self._even[index] += start[index] + slope[index] * grown
                self._slope[index] += slope[index]
        else:
            self._uneven[key] = kind, grown - self._grown

    def remove(self, key: int, kind: Shape, grown: float) -> None:
        """The sequence leaves, with its next step at `grown`."""
        self.count -= 1
        self.kinds[kind] -= 1
        if not self.kinds[kind]:
            del self.kinds[kind]
        if kind.even:
            start, slope = kind.line()
            for index in range(5):
                self._even[index] -= start[index] + slope[index] * grown
                self._slope[index] -= slope[index]
        else:
            del self._uneven[key]
        if not self.count:  # what rounding has left of the sums goes
            self._even, self._slope, self._grown = [*_NONE], [*_NONE], 0.0

    def advance(self, tokens: float) -> None:
        """Each sequence has grown by so many tokens."""
        self._grown += tokens
        for index in range(5):
            self._even[index] += self._slope[index] * tokens

    def reads(self, later: float = 0.0) -> Reads:
        """What the step reads that comes so many tokens after the next one."""
        total = [even + slope * later for even, slope in zip(self._even, self._slope, strict=True)]
        for kind, before in self._uneven.values():
            for index, number in enumerate(kind.reads(before + self._grown + later)):
                total[index] += number
        return Reads(*total)

    @property
    def held_byte(self) -> float:
        """What all caches hold at the next step."""
        return self.reads().held_byte

    @property
    def growth_byte(self) -> float:
        """What all caches grow by with the next token."""
        grown = self._slope[4]
        for kind, before in self._uneven.values():
            here = before + self._grown
            grown += max(0.0, kind.reads(here + 1).held_byte - kind.reads(here).held_byte)
        return grown

    @property
    def _any(self) -> Shape:
        return next(iter(self.kinds))

    @property
    def draft(self) -> Draft:
        """The draft of the stack, which is the same for all."""
        return self._any.state.answered.draft

    @property
    def depth(self) -> float:
        """Share of the layers that a step runs."""
        return self._any.state.answered.depth

    @property
    def step_token(self) -> float:
        """Tokens that a step yields for each sequence."""
        return self._any.step_token

    @property
    def attention_kernels(self) -> float:
        """Kernels of attention in a step."""
        return self._any.attention_kernels

    @property
    def attention_shards(self) -> int:
        """Devices among which a cache is divided."""
        return self._any.attention_shards
