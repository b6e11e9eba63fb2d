"""Makes a plan: chooses the candidates, searches their stacks, ranks them, and explains what lost."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.results import results_of
from lvlm_atlas.planner.candidates import candidates
from lvlm_atlas.planner.equal_quality import Quality, harmful
from lvlm_atlas.planner.metric import Metric
from lvlm_atlas.planner.objective import Objective
from lvlm_atlas.planner.plan import Limit, Option, Plan, Together
from lvlm_atlas.planner.quality import quality
from lvlm_atlas.planner.ranking import Ranking
from lvlm_atlas.planner.reasons import Reasons
from lvlm_atlas.planner.risk import RISKS
from lvlm_atlas.planner.search import Search, Stack
from lvlm_atlas.planner.shortage import too_large
from lvlm_atlas.planner.stack_risk import StackRisk
from lvlm_atlas.planner.warnings import shipments, vision_left, warnings
from lvlm_atlas.roofline.costs import Costs
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.specs.answers import Kept, elsewhere
from lvlm_atlas.specs.joint import together


def plan(kb: KnowledgeBase, baseline: Estimate, objective: Objective) -> Plan:
    """The stacks worth having for a request.

    Args:
        kb: techniques and their relations.
        baseline: the request without techniques.
        objective: the goal and its constraints.

    Raises:
        AtlasError: a word is unknown, a query cannot be answered, a number is out of range, or no stack fits.
    """
    objective.check(kb)
    goal, *also = objective.metrics(baseline)
    limits = objective.limits(baseline)
    chosen = candidates(kb, baseline, objective)
    barred = {} if objective.quality is None else harmful(kb, chosen.answers, objective.quality)
    search = Search(kb, chosen.searched, barred)
    costs = Costs(
        baseline.model, baseline.device, baseline.workload, baseline.deployment,
        [each.applied for each in chosen.searched],
    )  # fmt: skip
    most = RISKS.index(objective.risk)
    stacks = search.stacks(objective.max_techniques, most, chosen.required)
    risk = StackRisk.among(kb, chosen.searched, costs, most)
    ranking = Ranking(costs, baseline, goal, also, limits, stacks, risk)
    front = ranking.front()
    if not front:
        raise AtlasError(f"{too_large(baseline)}; no stack changes that")
    reasons = Reasons(search, ranking, front)
    return Plan(
        goal=goal,
        baseline=_option(kb, baseline, search, Stack(0, 0, 0, 0), limits, 0),
        front=tuple(
            _option(kb, baseline, search, stack, limits, risk.of(stack), chosen.answers, objective.quality)
            for stack in front
            if stack.bits
        ),
        runners_up=tuple(reasons.runners_up()),
        unused=tuple(reasons.unused()),
        conflicts=tuple(reasons.conflicts()),
        left_out=chosen.left_out,
        searched=len(ranking),
        settings=chosen.settings,
    )


def _option(
    kb: KnowledgeBase, baseline: Estimate, search: Search, stack: Stack, limits: Mapping[Metric, float], risk: int,
    answers: Mapping[str, Kept] | None = None, quality_kept: Quality | None = None,
) -> Option:  # fmt: skip
    """A stack with its estimate and what is known of its techniques."""
    members = search.members(stack)
    techniques = [each.applied for each in members]
    prediction = (
        estimate(baseline.model, baseline.device, baseline.workload, baseline.deployment, techniques)
        if techniques
        else baseline
    )
    reported = {each.id: results_of(kb.atlas, each.choice.technique) for each in members}
    left = vision_left(baseline, prediction)
    pairs = []
    for one, two in combinations((each.id for each in members), 2):
        verdict = search.verdicts[frozenset((one, two))]
        why = tuple(edge.reason for edge in verdict.edges)
        pairs.append(Together(one, two, verdict.value, why, kb.between(one, two)))
    alone = {each.id: answers[each.id] for each in members if answers and each.id in answers}
    tasks = quality_kept.tasks if quality_kept else None
    others = {id_: elsewhere(kb.atlas.curves[id_], kept, tasks) for id_, kept in alone.items()}
    return Option(
        estimate=prediction,
        risk=RISKS[risk],
        limits=tuple(Limit(metric, most, metric.of(prediction)) for metric, most in limits.items()),
        pairs=tuple(pairs),
        reported=reported,
        quality={id_: quality(results, baseline.model.id, left) for id_, results in reported.items()},
        warnings=tuple(warnings([each.choice.technique for each in members], baseline, prediction, reported)),
        answers=alone,
        elsewhere=others,
        together=together(kb.atlas.stacks, alone, tasks) if len(alone) > 1 else None,
        shipped=tuple(text for each in members for text in shipments(each.choice.technique)),
    )
