"""The risk of stacks on a request: that of techniques and pairs, and of tokens fewer than anybody reports on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.results import results_of
from lvlm_atlas.planner.risk import UNKNOWN, beyond, least_share
from lvlm_atlas.planner.search import Candidate, Stack
from lvlm_atlas.roofline.costs import Costs


@dataclass(frozen=True)
class StackRisk:
    """Places of stacks on the scale of `risk.RISKS`."""

    costs: Costs
    """What stacks leave of the vision tokens."""
    least: tuple[float | None, ...]
    """Of each candidate, the least share of the vision tokens that its sources report on."""
    most: int = UNKNOWN
    """The largest risk that is accepted."""

    @classmethod
    def among(cls, kb: KnowledgeBase, candidates: Sequence[Candidate], costs: Costs, most: int = UNKNOWN) -> StackRisk:
        """Of stacks of some candidates, whose costs these are."""
        techniques = {each.id: each.choice.technique for each in candidates}
        least = {id_: least_share(results_of(kb.atlas, each)) for id_, each in techniques.items()}
        return cls(costs, tuple(least[each.id] for each in candidates), most)

    def of(self, stack: Stack) -> int:
        """Place of a stack; that of its techniques and pairs is a lower bound."""
        shares = [share for i, share in enumerate(self.least) if stack.bits >> i & 1 and share is not None]
        if shares and stack.risk < UNKNOWN and beyond(self.costs.vision_share(stack.bits), min(shares)):
            return UNKNOWN
        return stack.risk

    def accepts(self, stack: Stack) -> bool:
        """Whether the risk of a stack is accepted."""
        return self.most == UNKNOWN or self.of(stack) <= self.most
