"""Which techniques are worth running together: computed from the graph, the planner and the curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.predicted import HARDWARE, MODEL, WORKLOADS
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.specs.answers import Kept, kept, tasks_of
from lvlm_atlas.specs.joint import stack_id

WANTED = 0.94
"""Share of the answers that a technique shall keep alone: enough to be used, and less than all, so that something can
add up."""
LEAST = 0.75
"""Share that it must keep; where two lose more, there is little left to lose together."""
SPARED = 0.98
"""Share of its main cost that it must come below at that setting."""
GOALS = ("ttft", "tpot", "total", "memory")
"""Goals of the plans whose fronts count."""
FRONT = "in a stack of a plan's front"


@dataclass(frozen=True)
class Interesting:
    """Techniques to run together."""

    techniques: tuple[Technique, ...]
    """In pipeline order."""
    tasks: tuple[str, ...]
    """Tasks on which each of them changes something."""
    checkpoints: tuple[str, ...]
    """Trained models that each has a curve of."""
    why: tuple[str, ...]
    """Reasons."""

    @property
    def id(self) -> str:
        """As its record is called."""
        return stack_id(each.id for each in self.techniques)


def settings(kb: KnowledgeBase) -> dict[str, Kept]:
    """Of each technique that can take part the setting of its curve that keeps a share nearest to `WANTED`.

    Left out are those that keep less than `LEAST` there, spare nothing, or ran without the training that they want; of
    two alike the cheaper counts.
    """
    found = {}
    for id_, curve in kb.atlas.curves.items():
        if curve.untuned:
            continue
        cost = curve.main_cost
        sparing = [each for each in kept(curve) if each.cost[cost] < SPARED and each.share >= LEAST]
        if sparing:
            found[id_] = min(sparing, key=lambda each: (round(abs(each.share - WANTED), 3), each.cost[cost]))
    return found


def interesting(
    kb: KnowledgeBase, fronts: Collection[frozenset[str]], count: int, wanted: Collection[str] = ()
) -> list[Interesting]:
    """Stacks of plans' fronts, then the most interesting pairs, up to so many of these.

    A pair counts if both have a setting, a task in common and no conflict, and the more of this holds the sooner it
    comes: the two stand in one stack of a plan's front, somebody states that they work together, they are filed under
    different stages, or they have no mechanism in common. Each technique comes up once before any does twice, and so
    on; of pairs alike in all this, that which leaves the least of both main costs comes first.

    Args:
        kb: techniques and curves.
        fronts: ids of the stacks of `planned`.
        count: pairs, stacks of more than two not counted.
        wanted: techniques of which each has one; none: all.
    """
    chosen = settings(kb)
    larger = [_interesting(kb, ids, (FRONT,)) for ids in sorted(fronts, key=sorted) if len(ids) > 2]
    pairs = []
    for pair in combinations(chosen, 2):
        why = tuple(_reasons(kb, pair, fronts))
        if why and kb.relation(*pair).value != "breaks":
            pairs.append(_interesting(kb, frozenset(pair), why))
    left = {id_: each.cost[kb.atlas.curves[id_].main_cost] for id_, each in chosen.items()}
    larger, pairs = (
        [each for each in several if each.tasks and each.checkpoints and _has(each, wanted)]
        for several in (larger, pairs)
    )
    return [*larger, *_spread(pairs, left, count)]


def planned(planner: Planner) -> set[frozenset[str]]:
    """The stacks of plans at equal quality for the standard requests, of techniques that can take part, by ids."""
    shelves = planner.atlas
    if MODEL not in shelves.models or HARDWARE not in shelves.hardware:
        return set()
    plans = [
        planner.plan(MODEL, HARDWARE, workload, goal=goal, keep_quality=LEAST)
        for workload in WORKLOADS
        if workload in shelves.workloads
        for goal in GOALS
    ]
    stacks = {frozenset(each.id for each in option.estimate.stack) for plan in plans for option in plan.front}
    return {ids.intersection(settings(planner.kb)) for ids in stacks}


def _has(stack: Interesting, wanted: Collection[str]) -> bool:
    return not wanted or any(each.id in wanted for each in stack.techniques)


def _reasons(kb: KnowledgeBase, pair: tuple[str, str], fronts: Collection[frozenset[str]]) -> Iterator[str]:
    one, two = (kb.technique(id_) for id_ in pair)
    if any(ids.issuperset(pair) for ids in fronts):
        yield FRONT
    if kb.relation(*pair).value == "works":
        yield "stated to work together"
    if one.stage != two.stage:
        yield "different stages"
    if not {*one.mechanism} & {*two.mechanism}:
        yield "no mechanism in common"


def _interesting(kb: KnowledgeBase, ids: frozenset[str], why: tuple[str, ...]) -> Interesting:
    techniques = sorted((kb.technique(id_) for id_ in ids), key=lambda each: (kb.atlas.place(each), each.id))
    shared = [tasks_of(kb.atlas.curves[each.id]) for each in techniques]
    tasks = tuple(task for task in shared[0] if all(task in others for others in shared))
    first, *others = (kb.atlas.curves[each.id].checkpoints for each in techniques)
    models = tuple(name for name in first if all(name in other for other in others))
    return Interesting(tuple(techniques), tasks, models, why)


def _spread(pairs: Sequence[Interesting], left: Mapping[str, float], count: int) -> Iterator[Interesting]:
    """So many pairs, those first whose techniques have come up least."""
    taken: Counter[str] = Counter()
    waiting = list(pairs)

    def rank(pair: Interesting) -> tuple[int, int, int, float, str]:
        one, two = (each.id for each in pair.techniques)
        most, fewest = max(taken[one], taken[two]), min(taken[one], taken[two])
        return most, fewest, -len(pair.why), left[one] * left[two], pair.id

    while waiting and count > 0:
        best = min(waiting, key=rank)
        waiting.remove(best)
        taken.update(each.id for each in best.techniques)
        count -= 1
        yield best
