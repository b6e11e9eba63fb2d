"""Edges that the roofline predicts: which techniques help or hinder each other on the standard request.

They are computed when the graph is built and never stored in entries, and they decide no verdict: that two gains
multiply on paper does not show that the code of both runs together.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.pair import Pair
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.specs.fits import problem

MODEL, HARDWARE = "qwen2.5-vl-7b", "h200-sxm"
WORKLOADS = ("images-20", "video-60s")
"""The requests that edges are predicted for; of a pair that runs in both, the first counts."""


def with_predictions(planner: Planner) -> KnowledgeBase:
    """The knowledge base with its predicted edges; as it is where the catalog lacks the standard model or device."""
    shelves = planner.atlas
    there = MODEL in shelves.models and HARDWARE in shelves.hardware
    return KnowledgeBase(planner.kb.atlas, predicted_edges(planner)) if there else planner.kb


def predicted_edges(planner: Planner) -> tuple[Edge, ...]:
    """The predicted edges, in a fixed order."""
    edges: dict[frozenset[str], Edge] = {}
    for workload in WORKLOADS:
        if workload in planner.atlas.workloads:
            for edge in _edges(planner, workload):
                edges.setdefault(edge.ends, edge)
    return tuple(edges[ends] for ends in sorted(edges, key=sorted))


def _edges(planner: Planner, workload: str) -> Iterator[Edge]:
    kb, model, device, request = (
        planner.kb, planner.model(MODEL), planner.device(HARDWARE), planner.workload(workload),
    )  # fmt: skip

    def found(*stack: str) -> Estimate:
        return planner.estimate(model, device, request, stack=stack)

    fitting = [t for t in kb.atlas.techniques.values() if not problem(t, model, request)]
    alone = {technique.id: found(technique.id) for technique in fitting}
    neither = found()
    for one, two in combinations(sorted(alone), 2):
        verdict = kb.relation(one, two).value
        if verdict != "breaks":
            yield from _edge(Pair(neither, alone[one], alone[two], found(one, two)), one, two, verdict)


def _edge(pair: Pair, one: str, two: str, verdict: str) -> Iterator[Edge]:
    """The edge of a pair, if it has one: gains that multiply have none.

    A directed edge starts at the technique that saves more time alone. A bottleneck is shifted to the technique that
    relieves it. That two compose is said only where somebody has stated that they work together.
    """
    total = pair.gain("total")
    ordered = [(one, pair.first, two, pair.second), (two, pair.second, one, pair.first)]
    ordered.sort(key=lambda each: each[1].total_s)
    if total.kind == "diminishing":
        yield _stated(pair, ordered[0][0], "diminishes", ordered[0][2])
    elif total.kind == "synergy" and verdict == "works":
        yield _stated(pair, one, "composes-with", two)
    elif total.kind == "independent":
        for start, first, end, second in ordered:
            moved = first.bottleneck != pair.neither.bottleneck and first.total_s < pair.neither.total_s
            if moved and _relieved(pair.neither, second) == first.bottleneck:
                yield _stated(pair, start, "shifts-bottleneck-to", end)
                return


def _relieved(before: Estimate, after: Estimate) -> str | None:
    """The stage that a technique saves most time in; None if none gets faster by a hundredth."""
    saved = {name: before.stages[name].time_s - after.stages[name].time_s for name in STAGES}
    name = max(STAGES, key=lambda stage: saved[stage])
    return name if saved[name] >= before.stages[name].time_s / 100 > 0 else None


def _stated(pair: Pair, start: str, kind: str, end: str) -> Edge:
    total, base = pair.gain("total"), pair.neither
    where = f"{base.workload.id}, {base.model.name}, {base.device.name}"
    return Edge(
        start=start,
        kind=kind,
        end=end,
        symmetric=kind == "composes-with",
        reason=f"Joint {total.joint:.2f}× against {total.expected:.2f}× expected in total time: {pair.why}.",
        evidence="predicted",
        place=f"roofline, {where}, default settings",
    )
