"""What a model's requests are answered with: the costs of every technique alone, and the stacks worth having."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from itertools import combinations
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.candidates import Candidates, candidates
from lvlm_atlas.planner.metric import METRICS
from lvlm_atlas.planner.objective import Objective
from lvlm_atlas.planner.ranking import Ranking
from lvlm_atlas.planner.risk import RISKS
from lvlm_atlas.planner.search import Candidate, Search, Stack
from lvlm_atlas.planner.stack_risk import StackRisk
from lvlm_atlas.roofline.costs import Cost, Costs
from lvlm_atlas.roofline.deployment import PRESETS, Deployment
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.site.answers.figures import written
from lvlm_atlas.site.answers.scope import GOALS, MOST, RISK, Scope
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.estimates import Case


@dataclass(frozen=True)
class Asked:
    """A workload of a model: what can be tried there, on whichever device."""

    candidates: Candidates
    search: Search
    stacks: tuple[Stack, ...]
    """The stacks whose techniques are known to work together, of one technique among them."""


class Searches:
    """The stacks of techniques that are known to work together: most models can try the same techniques."""

    def __init__(self, kb: KnowledgeBase) -> None:
        self.kb = kb
        self._known: dict[tuple[str, ...], tuple[Search, tuple[Stack, ...]]] = {}
        self._risks: dict[tuple[str, ...], StackRisk] = {}

    def risk(self, candidates: Sequence[Candidate], costs: Costs) -> StackRisk:
        """The risk of their stacks on a request; what sources report of each is looked up once."""
        ids = tuple(each.id for each in candidates)
        if ids not in self._risks:
            self._risks[ids] = StackRisk.among(self.kb, candidates, costs, RISKS.index(RISK))
        return changed(self._risks[ids], costs=costs)

    def of(self, candidates: Sequence[Candidate]) -> tuple[Search, tuple[Stack, ...]]:
        """The search over some techniques at their defaults, and its stacks."""
        ids = tuple(each.id for each in candidates)
        if ids not in self._known:
            search = Search(self.kb, candidates)
            self._known[ids] = search, tuple(search.stacks(MOST, RISKS.index(RISK)))
        return self._known[ids]


class Answers:
    """The answers for one model.

    Args:
        content: the atlas.
        scope: which requests.
        model: id of the model.
        numbers: the number by which a technique goes in the files, by id.
        searches: shared by the answers for several models.
    """

    def __init__(
        self, content: Content, scope: Scope, model: str, numbers: Mapping[str, int], searches: Searches | None = None
    ) -> None:
        self.content, self.scope, self.model, self.numbers = content, scope, model, numbers
        self.searches = searches or Searches(content.kb)
        self._asked: dict[str, Asked] = {}
        self._costs: dict[tuple[str, int], Costs] = {}

    def of_model(self) -> dict[str, Any]:
        """What is the same on every device: for each workload what enters, what can be tried, and why not the rest.

        Call this after `of_device`, which finds out.
        """
        return {workload: self._tried(asked) for workload, asked in self._asked.items()}

    def of_device(self, device: str) -> dict[str, Any]:
        """The answers on one device, by workload; a text where there is none."""
        answers: dict[str, Any] = {}
        for workload in self.scope.workloads:
            try:
                answers[workload] = self._answer(Case(self.model, device, workload))
            except AtlasError as error:
                answers[workload] = str(error)
        return answers

    def together(self, device: str) -> dict[str, dict[str, str]]:
        """What each two techniques without a conflict cost together, by workload; by their places among those tried.

        Call this after `of_device` of that device.
        """
        together: dict[str, dict[str, str]] = {}
        for workload, asked in self._asked.items():
            held = self.content.estimates.smallest(Case(self.model, device, workload))
            if held is not None:
                costs = self._costs_of(held)
                base, ids = costs.of(0), [each.id for each in asked.candidates.searched]
                together[workload] = {
                    f"{i}+{j}": written(costs.of(1 << i | 1 << j), base)
                    for (i, one), (j, two) in combinations(enumerate(ids), 2)
                    if asked.search.verdicts[frozenset((one, two))].value != "breaks"
                }
        return together

    def _answer(self, case: Case) -> dict[str, Any]:
        estimates = self.content.estimates
        estimates.of(changed(case, device=next(iter(estimates.devices))))  # the model may not take the request
        held = estimates.smallest(case)
        if held is None:
            raise AtlasError(f"eight {estimates.devices[case.device].name} do not hold it")
        baseline = estimates.of(held)
        asked, costs = self._asked_of(baseline), self._costs_of(held)
        base = costs.of(0)
        rows = [written(costs.of(1 << index), base) for index in range(len(asked.candidates.searched))]
        return {
            "devices": held.devices,
            "base": written(base),
            "rows": ";".join(rows),
            "stacks": {goal: [*self._front(goal, baseline, asked, costs, base)] for goal in _goals(baseline)},
        }

    def _front(
        self, goal: str, baseline: Estimate, asked: Asked, costs: Costs, base: Cost
    ) -> Iterator[tuple[list[int], str, int]]:
        """The stacks of the front: places of their techniques among those tried, what they cost, their risk."""
        risk = self.searches.risk(asked.candidates.searched, costs)
        for stack in Ranking(costs, baseline, METRICS[goal], (), {}, asked.stacks, risk).front():
            if stack.bits:
                members = [index for index in range(len(costs.techniques)) if stack.bits >> index & 1]
                yield members, written(costs.of(stack.bits), base), risk.of(stack)

    def _asked_of(self, baseline: Estimate) -> Asked:
        id_ = baseline.workload.id
        if id_ not in self._asked:
            objective = Objective(goal=GOALS[0], risk=RISK)
            chosen = candidates(self.content.kb, baseline, objective)
            self._asked[id_] = Asked(chosen, *self.searches.of(chosen.searched))
        return self._asked[id_]

    def _costs_of(self, case: Case) -> Costs:
        """The costs on the devices of a case, with what another device has found out already."""
        estimates = self.content.estimates
        device, key = estimates.devices[case.device], (case.workload, case.devices)
        if key not in self._costs:
            deployment = Deployment(tensor_parallel=case.devices, efficiency=PRESETS[case.efficiency])
            techniques = [each.applied for each in self._asked[case.workload].candidates.searched]
            model, workload = estimates.models[case.model], estimates.workloads[case.workload]
            self._costs[key] = Costs(model, device, workload, deployment, techniques)
            return self._costs[key]
        return self._costs[key].on(device)

    def _tried(self, asked: Asked) -> dict[str, Any]:
        """Numbers of the techniques that were tried, in the order of the rows; reasons against the others."""
        reasons: dict[str, list[int]] = {}
        for lost in asked.candidates.left_out:
            reasons.setdefault(lost.why, []).append(self.numbers[lost.what])
        return {"tried": [self.numbers[each.id] for each in asked.candidates.searched], "barred": [*reasons.items()]}


def _goals(baseline: Estimate) -> Sequence[str]:
    """The goals that a request has."""
    return [goal for goal in GOALS if goal != "tpot" or baseline.workload.output_tokens > 1]
