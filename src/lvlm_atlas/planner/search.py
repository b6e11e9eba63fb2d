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


@dataclass(frozen=True, slots=True)
class Found:
    """A stack. `stack` has bit i for candidate i."""

    stack: int
    count: int
    """Techniques in it."""
    full: int
    """Those at no milder setting than their default."""
    risk: int
    """Place on the scale of `risk.RISKS`."""


def candidate(kb: KnowledgeBase, choice: Choice, *, milder: bool = False) -> Candidate:
    """A choice, ready for the search.

    Raises:
        AtlasError: as of `lowering.applied`.
    """
    return Candidate(
        choice, applied(kb.atlas, choice.technique, choice.setting, choice.outcomes), risk(choice.technique), milder
    )


class Search:
    """All stacks of some candidates.

    Args:
        kb: what is known of pairs.
        candidates: techniques at settings, in pipeline order.
    """

    def __init__(self, kb: KnowledgeBase, candidates: Sequence[Candidate]) -> None:
        self.kb, self.candidates = kb, candidates

    @cached_property
    def verdicts(self) -> Mapping[frozenset[str], Verdict]:
        """Whether each two techniques get along."""
        ids = sorted({each.applied.id for each in self.candidates})
        return {frozenset(pair): self.kb.relation(*pair) for pair in combinations(ids, 2)}

    def stacks(self, most: int, worst_risk: int, needed: int = 0) -> Iterator[Found]:
        """Every stack of at most so many techniques and no more than that risk, the empty one first.

        Args:
            most: techniques at most.
            worst_risk: place on the scale of `risk.RISKS` that is still accepted.
            needed: candidates, as bits, of which one must be in a stack other than the empty one; 0: none need be.
        """
        works, unknown = self._pairs()
        risks = [each.risk for each in self.candidates]
        full = [not each.milder for each in self.candidates]
        if worst_risk < UNKNOWN:
            unknown = [0] * len(works)
        allowed = sum(1 << i for i, each in enumerate(risks) if each <= worst_risk)
        # A stack grows at its end only, so each is met once.
        waiting = [(0, allowed, 0, 0, 0)]
        while waiting:
            stack, open_, count, strong, at = waiting.pop()
            if not stack or not needed or stack & needed:
                yield Found(stack, count, strong, at)
            if count == most:
                continue
            rest = open_
            while rest:
                bit = rest & -rest
                i = bit.bit_length() - 1
                rest ^= bit
                known = not stack & unknown[i]
                worse = max(at, risks[i]) if known else UNKNOWN
                waiting.append((stack | bit, rest & (works[i] | unknown[i]), count + 1, strong + full[i], worse))

    def _pairs(self) -> tuple[list[int], list[int]]:
        """For each candidate, those that are known to work with it, and those of which nothing is known."""
        works, unknown = [0] * len(self.candidates), [0] * len(self.candidates)
        for (i, one), (j, two) in combinations(enumerate(self.candidates), 2):
            if one.applied.id != two.applied.id:
                verdict = self.verdicts[frozenset((one.applied.id, two.applied.id))].value
                for table, value in ((works, "works"), (unknown, "unknown")):
                    if verdict == value:
                        table[i] |= 1 << j
                        table[j] |= 1 << i
        return works, unknown
