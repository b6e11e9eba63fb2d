"""The edges between techniques: which there are, how they are reached, and what they settle."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

import pytest

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.interactions import Interactions
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.laws import LAWS
from synthetic import varied


def ids(techniques: tuple[object, ...]) -> list[str]:
    return [technique.id for technique in techniques]  # type: ignore[attr-defined]


def steps(kb: KnowledgeBase, start: str, kind: str | None) -> dict[str, int]:
    """Distance to every technique, by the plainest breadth-first search; laws count where their kind is asked for."""
    pairs = combinations(kb.atlas.techniques, 2)
    edges = kb.edges if kind is None else [edge for pair in pairs for edge in kb.between(*pair)]
    distance, queue = {start: 0}, deque([start])
    while queue:
        here = queue.popleft()
        for edge in edges:
            if here in (edge.start, edge.end) and kind in (None, edge.kind):
                there = edge.end if here == edge.start else edge.start
                if there not in distance:
                    distance[there] = distance[here] + 1
                    queue.append(there)
    return distance


@pytest.mark.parametrize("kind", [None, "conflicts-with", "cascades-to", "diminishes", "requires"])
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_within_finds_what_a_search_in_both_directions_finds(kb: KnowledgeBase, hops: int, kind: str | None) -> None:
    for start in kb.atlas.techniques:
        expected = {end for end, distance in steps(kb, start, kind).items() if 0 < distance <= hops}
        assert ids(kb.within(start, hops, kind)) == sorted(expected)


def test_within_wants_at_least_one_step(kb: KnowledgeBase) -> None:
    with pytest.raises(AtlasError, match="at least 1, got 0"):
        kb.within("fastv", 0)


def test_a_path_is_as_short_as_a_search_in_both_directions_finds_and_joined(kb: KnowledgeBase) -> None:
    for one in kb.atlas.techniques:
        distance = steps(kb, one, None)
        for two in set(kb.atlas.techniques) - {one}:
            path = kb.path(one, two)
            assert len(path) == distance.get(two, 0)
            near = one
            for edges in path:
                (far,) = {edge.other(near) for edge in edges}
                assert set(edges) == {edge for edge in kb.edges if edge.ends == {near, far}}
                near = far
            assert not path or near == two
    with pytest.raises(AtlasError, match="are one technique"):
        kb.path("fastv", "FastV")


@pytest.mark.parametrize(
    ("one", "two", "value"),
    [
        ("fastv", "kivi", "works"),  # a source composes them
        ("h2o", "kivi", "works"),  # it diminishes it, so both run
        ("minference", "xattention", "breaks"),  # one slot
        ("old-pruner", "minference", "breaks"),  # no map
        ("fastv", "minference", "unknown"),  # a derived cascade is no proof that both run
        ("fastv", "h2o", "unknown"),  # where the bottleneck goes says nothing of a stack
        ("specvlm-ji", "old-pruner", "unknown"),  # superseding neither
        ("aks", "speculative-sampling", "unknown"),
    ],
)
def test_a_pair_works_breaks_or_is_unknown_from_either_side(kb: KnowledgeBase, one: str, two: str, value: str) -> None:
    assert kb.relation(one, two) == kb.relation(two, one)
    verdict = kb.relation(one, two)
    assert verdict.value == value
    assert bool(verdict.edges) == (value != "unknown")


def test_nothing_works_on_the_word_of_a_rule_alone(kb: KnowledgeBase) -> None:
    for one in kb.atlas.techniques:
        for two in kb.atlas.techniques:
            if one != two and kb.relation(one, two).value == "works":
                assert all(edge.evidence != "derived" for edge in kb.relation(one, two).edges)


def test_a_technique_has_no_verdict_with_itself(kb: KnowledgeBase) -> None:
    with pytest.raises(AtlasError, match="are one technique"):
        kb.relation("fastv", "FastV")


def test_related_reads_from_the_given_technique(kb: KnowledgeBase) -> None:
    assert ids(kb.related("specvlm-ji", "builds-on")) == ["speculative-sampling"]
    assert ids(kb.related("speculative-sampling", "is-base-of")) == ["specvlm-ji"]
    assert ids(kb.related("speculative-sampling", "builds_on")) == []
    assert ids(kb.related("fast-vee", "composes-with")) == ["kivi"]
    assert ids(kb.related("KIVI", "Composes With")) == ["fastv"]


def test_the_edges_of_a_kind_are_those_between_it_and_each_other_one(kb: KnowledgeBase) -> None:
    for kind in ("cascades-to", "diminishes", "conflicts-with"):
        for one in kb.atlas.techniques:
            others = (other for other in kb.atlas.techniques if other != one)
            expected = [edge for other in others for edge in kb.between(one, other) if edge.kind == kind]
            assert sorted(kb.of_kind(one, kind), key=repr) == sorted(expected, key=repr)


def test_what_a_law_derives_is_found_but_neither_stored_nor_walked_nor_decisive(kb: KnowledgeBase) -> None:
    (edge,) = (edge for edge in kb.between("divprune", "fastv") if edge.kind == "cascades-to")
    assert (edge.start, edge.evidence, edge.source) == ("divprune", "derived", "rule upstream-tokens")
    assert edge not in kb.edges
    assert edge not in kb.interactions("fastv")
    assert "divprune" in ids(kb.related("fastv", "is-fed-by"))
    assert "divprune" not in ids(kb.within("fastv", 1))
    assert "divprune" in ids(kb.within("fastv", 1, "cascades-to"))


PRUNING = {"acts_at": ["llm-input"], "effects": [{"quantity": "vision-tokens", "scale": "keep_ratio"}]}


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        pytest.param(PRUNING, ["diminishes", "diminishes"], id="each the other"),
        pytest.param({"acts_at": ["encoder-output"]}, ["cascades-to", "diminishes"], id="the earlier the later"),
    ],
)
def test_two_that_reduce_one_quantity_diminish_each_other_by_law(
    atlas_of: Callable[..., Atlas], fields: dict[str, Any], kinds: list[str]
) -> None:
    kb = Interactions(atlas_of(early={**PRUNING, **fields}, late=PRUNING))
    assert sorted(edge.kind for edge in kb.between("early", "late")) == kinds
    assert not kb.edges


@pytest.mark.parametrize("kind", ["composes-with", "diminishes"])
def test_what_a_source_says_of_a_pair_outweighs_the_law_of_diminishing(
    atlas_of: Callable[..., Atlas], kind: str
) -> None:
    source = {"paper": "doe2025sample", "place": "p. 1"}
    stated = {"kind": kind, "with": "b", "reason": "It does.", "evidence": "reported", "source": source}
    kb = Interactions(atlas_of(a={**PRUNING, "interactions": [stated]}, b=PRUNING))
    (edge,) = kb.between("a", "b")
    assert (edge.kind, edge.evidence) == (kind, "reported")
    assert edge.rules == (("same-quantity",) if kind == "diminishes" else ())


def test_a_technique_has_no_edge_to_itself(kb: KnowledgeBase) -> None:
    assert not any(kb.between(id_, id_) for id_ in kb.atlas.techniques)


@pytest.mark.parametrize("of_all_first", [True, False])
def test_the_edges_of_one_technique_are_those_of_all_that_touch_it(kb: KnowledgeBase, of_all_first: bool) -> None:
    """Whether nobody has asked for all of them yet, in which case the others are not even made."""
    fresh = Interactions(kb.atlas, kb.predicted)
    if of_all_first:
        assert fresh.edges == kb.edges
    for id_ in kb.atlas.techniques:
        assert fresh.interactions(id_) == tuple(edge for edge in kb.edges if id_ in edge.ends)
    one, two = next(tuple(sorted(edge.ends)) for edge in kb.edges)
    assert fresh.between(one, two) == fresh.between(two, one) == kb.between(one, two)


def test_of_two_that_conflict_neither_diminishes_the_other(atlas_of: Callable[..., Atlas]) -> None:
    owner = {"acts_at": ["adapter"], "effects": [{"quantity": "vision-tokens", "set": 64}]}
    assert [edge.kind for edge in Interactions(atlas_of(a=owner, b=owner)).between("a", "b")] == ["conflicts-with"]


def test_the_number_of_stored_edges_does_not_grow_with_the_pairs_that_laws_join(kb: KnowledgeBase) -> None:
    techniques = varied(kb.atlas, 60)
    lawful = [e for pair in permutations(techniques.atlas.techniques, 2) for e in techniques.between(*pair)]
    assert sum(edge.source.removeprefix("rule ") in {law.id for law in LAWS} for edge in lawful) > 1000
    assert {edge.kind for edge in techniques.edges} == {"conflicts-with"}
