"""Searches all stacks that can run: none is sampled, and none that is in conflict is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.verdict import Verdict
from lvlm_atlas.planner.risk import UNKNOWN, risk
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.specs.stack import Choice
from lvlm_atlas.specs.technique import applied


@dataclass(frozen=True)
class Candidate:
    """A technique at a setting that the search may use."""

    choice: Choice
    applied: Applied
    risk: int
    """Its place on the scale of `risk.RISKS`."""
    milder: bool = False
    """Whether the setting is milder than the entry's default."""

    @property
    def id(self) -> str:
        """The technique's id."""
        return self.applied.id


@dataclass(frozen=True, slots=True)
class Stack:
    """Candidates that can run together."""

    bits: int
    """Bit i stands for candidate i."""
    count: int
    """Techniques in it."""
    full: int
    """Those at no milder setting than their default."""
    risk: int
    """Place on the scale of `risk.RISKS`."""


def candidate(kb: KnowledgeBase, choice: Choice, *, milder: bool = False) -> Candidate:
    """A choice, ready for the search.

    Raises:
        AtlasError: as of `specs.technique.applied`.
    """
    return Candidate(
        choice, applied(kb.atlas, choice.technique, choice.setting, choice.outcomes), risk(choice.technique), milder
    )


class Search:
    """All stacks of some candidates.

    Args:
        kb: what is known of pairs.
        candidates: techniques at settings, in pipeline order.
        barred: pairs of techniques that no stack may have, each with the reason.
    """

    def __init__(
        self, kb: KnowledgeBase, candidates: Sequence[Candidate], barred: Mapping[frozenset[str], str] | None = None
    ) -> None:
        self.kb, self.candidates, self.barred = kb, candidates, barred or {}

    @cached_property
    def verdicts(self) -> Mapping[frozenset[str], Verdict]:
        """Whether each two techniques get along."""
        ids = sorted({each.id for each in self.candidates})
        return {frozenset(pair): self.kb.relation(*pair) for pair in combinations(ids, 2)}

    def members(self, stack: Stack) -> list[Candidate]:
        """The candidates of a stack, in pipeline order."""
        return [each for i, each in enumerate(self.candidates) if stack.bits >> i & 1]

    def bits(self, id_: str) -> int:
        """The candidates that are settings of one technique, as bits."""
        return sum(1 << i for i, each in enumerate(self.candidates) if each.id == id_)

    def stacks(self, max_count: int, max_risk: int, required: int = 0) -> Iterator[Stack]:
        """Every stack of at most so many techniques and no more than that risk, the empty one first.

        Args:
            max_count: techniques at most.
            max_risk: place on the scale of `risk.RISKS` that is still accepted.
            required: candidates, as bits, of which one must be in a stack other than the empty one; 0: none need be.
        """
        works, unknown = self._pairs()
        risks = [each.risk for each in self.candidates]
        full = [not each.milder for each in self.candidates]
        if max_risk < UNKNOWN:
            unknown = [0] * len(works)
        allowed = sum(1 << i for i, risk_ in enumerate(risks) if risk_ <= max_risk)
        # A stack grows at its end only, so each is met once.
        pending = [(Stack(0, 0, 0, 0), allowed)]
        while pending:
            stack, addable = pending.pop()
            if not stack.bits or not required or stack.bits & required:
                yield stack
            if stack.count == max_count:
                continue
            while addable:
                bit = addable & -addable
                i = bit.bit_length() - 1
                addable ^= bit
                risk_ = UNKNOWN if stack.bits & unknown[i] else max(stack.risk, risks[i])
                grown = Stack(stack.bits | bit, stack.count + 1, stack.full + full[i], risk_)
                pending.append((grown, addable & (works[i] | unknown[i])))

    def _pairs(self) -> tuple[list[int], list[int]]:
        """For each candidate, those that are known to work with it, and those of which nothing is known."""
        works, unknown = [0] * len(self.candidates), [0] * len(self.candidates)
        for (i, one), (j, two) in combinations(enumerate(self.candidates), 2):
            if one.id != two.id and frozenset((one.id, two.id)) not in self.barred:
                verdict = self.verdicts[frozenset((one.id, two.id))].value
                for table, value in ((works, "works"), (unknown, "unknown")):
                    if verdict == value:
                        table[i] |= 1 << j
                        table[j] |= 1 << i
        return works, unknown
