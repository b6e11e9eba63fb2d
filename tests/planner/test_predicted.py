"""Edges that the roofline predicts: those that tell something, and of them the strongest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.pair import Pair
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.predicted import HARDWARE, KEPT, MODEL, TELLING, WORKLOADS, predicted_edges, with_predictions
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.stage import STAGES
from synthetic import varied


def pairs(planner: Planner) -> Iterator[Pair]:
    """Each pair that can run, on the first request on which it can, by estimates alone."""
    for one, two in combinations(planner.kb.atlas.techniques, 2):
        for workload in WORKLOADS:
            try:
                yield planner.interactions(one, two, MODEL, HARDWARE, workload)
                break
            except AtlasError:
                continue


def expected(pair: Pair, verdict: str) -> tuple[str, str, float] | None:
    """Start and kind of the edge that a pair must have, and what it tells."""
    ratio = pair.gain("total").ratio
    first, second = sorted((pair.first, pair.second), key=lambda found: found.total_s)
    if ratio <= 1 / TELLING:
        return first.stack[0].id, "diminishes", 1 / ratio
    if ratio >= TELLING:
        return (min(pair.names), "composes-with", ratio) if verdict == "works" else None
    for mover, relief in ((first, second), (second, first)):
        remaining = mover.total_s / pair.joint.total_s
        moved = mover.bottleneck != pair.neither.bottleneck and mover.total_s < pair.neither.total_s
        if moved and most_saved(pair.neither, relief) == mover.bottleneck and remaining >= TELLING:
            return mover.stack[0].id, "shifts-bottleneck-to", remaining
    return None


def most_saved(before: Estimate, after: Estimate) -> str:
    return max(STAGES, key=lambda stage: before.stages[stage].time_s - after.stages[stage].time_s)


def test_a_pair_has_an_edge_exactly_if_its_estimates_tell_something(planner: Planner) -> None:
    edges = {edge.ends: edge for edge in predicted_edges(planner, kept=len(planner.kb))}
    wanted = {}
    for pair in pairs(planner):
        one, two = (found.stack[0].id for found in (pair.first, pair.second))
        if edge := expected(pair, planner.kb.relation(one, two).value):
            wanted[frozenset((one, two))] = edge
    assert len({kind for _, kind, _ in wanted.values()}) == 3
    assert edges.keys() == wanted.keys()
    for ends, (start, kind, factor) in wanted.items():
        assert (edges[ends].start, edges[ends].kind) == (start, kind)
        assert math.exp(edges[ends].strength) == pytest.approx(factor, rel=1e-9)


def test_predicted_edges_are_labelled_carry_their_numbers_and_settle_nothing(planner: Planner) -> None:
    edges = predicted_edges(planner)
    kb = with_predictions(planner)
    assert edges
    assert {edge.evidence for edge in edges} == {"predicted"}
    assert all("× against " in edge.reason and "roofline, " in edge.source for edge in edges)
    assert {edge.kind for edge in edges} <= {"composes-with", "diminishes", "shifts-bottleneck-to"}
    for edge in edges:
        assert edge in kb.edges
        assert edge in kb.interactions(edge.start)
        assert kb.relation(edge.start, edge.end) == planner.kb.relation(edge.start, edge.end)
        if edge.kind == "composes-with":  # what nobody has stated is not predicted into being
            assert planner.kb.relation(edge.start, edge.end).value == "works"


def test_without_predictions_the_graph_has_none(planner: Planner) -> None:
    assert not any(edge.evidence == "predicted" for edge in KnowledgeBase(planner.kb.atlas).edges)


@pytest.fixture(scope="module")
def many(planner: Planner) -> tuple[Edge, ...]:
    return predicted_edges(Planner(kb=varied(planner.kb.atlas, 45)))


def test_each_edge_is_among_the_strongest_of_its_kind_for_one_of_its_ends(many: tuple[Edge, ...]) -> None:
    for edge in many:
        alike = [other for other in many if other.kind == edge.kind and other.strength > edge.strength]
        assert min(sum(end in other.ends for other in alike) for end in edge.ends) < KEPT


def test_of_the_pairs_that_tell_something_only_the_weaker_are_left_out(
    planner: Planner, many: tuple[Edge, ...]
) -> None:
    every = predicted_edges(Planner(kb=varied(planner.kb.atlas, 45)), kept=45)
    assert set(many) < set(every)
    for edge in set(every) - set(many):
        alike = [other for other in every if other.kind == edge.kind and other.strength >= edge.strength]
        assert min(sum(end in other.ends for other in alike) for end in edge.ends) > KEPT
