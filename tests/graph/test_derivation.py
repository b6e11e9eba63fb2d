from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.derivation import RULES
from lvlm_atlas.graph.edges import stored_edges
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.laws import LAWS, Laws
from lvlm_atlas.schema.vocabulary import PositionTerm, Vocabulary

MakeAtlas = Callable[..., Atlas]
SPARSE = {
    "acts_at": ["attention"],
    "mechanism": ["sparse-attention"],
    "effects": [{"quantity": "attention.density", "scale": 0.5}],
}
BUILDS = {
    "kind": "builds-on",
    "reason": "It does.",
    "evidence": "reported",
    "source": {"paper": "doe2025sample", "place": "p. 1"},
}


def derived(rule: str, atlas: Atlas) -> set[tuple[str, str]]:
    found = {e.id: e for e in RULES}[rule]
    return {(start, end) for start, end, _ in found.pairs(atlas)}


def test_every_rule_has_an_id_of_its_own_and_says_why() -> None:
    assert len({rule.id for rule in (*RULES, *LAWS)}) == len(RULES) + len(LAWS) >= 4
    assert all(rule.why.endswith(".") and rule.kind for rule in (*RULES, *LAWS))


def test_no_rule_derives_that_two_techniques_compose(kb: KnowledgeBase) -> None:
    assert "composes-with" not in {rule.kind for rule in (*RULES, *LAWS)}
    assert {edge.kind for edge in kb.edges if edge.evidence == "derived"} == {"conflicts-with"}


def test_a_derived_edge_names_its_rule_and_a_stated_one_its_paper(kb: KnowledgeBase) -> None:
    for edge in kb.edges:
        assert edge.source.startswith("rule " if edge.evidence == "derived" else "doe2025sample, sec. 4")


def test_each_exclusive_place_has_room_for_one(atlas_of: MakeAtlas, vocabularies: dict[str, Vocabulary]) -> None:
    places = [term for term in vocabularies["position"].terms if isinstance(term, PositionTerm) and not term.gone]
    assert {place.exclusive for place in places} == {True, False}
    for place in places:
        atlas = atlas_of(a={"acts_at": [place.id]}, b={"acts_at": [place.id]})
        assert derived("exclusive-slot", atlas) == ({("a", "b")} if place.exclusive else set())


def test_different_exclusive_places_do_not_exclude_each_other(atlas_of: MakeAtlas) -> None:
    assert not derived("exclusive-slot", atlas_of(a={"acts_at": ["attention"]}, b={"acts_at": ["decode-loop"]}))


def test_a_builder_and_its_base_still_share_no_slot_and_the_reason_says_so(atlas_of: MakeAtlas) -> None:
    atlas = atlas_of(a=SPARSE, b={**SPARSE, "interactions": [{**BUILDS, "with": "a"}]})
    (conflict,) = (edge for edge in stored_edges(Laws(atlas)) if edge.kind == "conflicts-with")
    assert "B builds on A and already includes it." in conflict.reason


@pytest.mark.parametrize("mechanism", ["sparse-attention", "architecture"])
def test_who_needs_the_map_conflicts_with_any_operator_that_never_forms_it(atlas_of: MakeAtlas, mechanism: str) -> None:
    kernel = {**SPARSE, "mechanism": [mechanism]}
    assert derived("map-without-kernel", atlas_of(kernel=kernel, reader={"needs": ["attention-map"]})) == {
        ("kernel", "reader")
    }


@pytest.mark.parametrize(
    ("kernel", "reader"),
    [
        pytest.param(SPARSE, {"needs": ["attention-row"]}, id="rows can be recomputed"),
        pytest.param(SPARSE, {"needs": ["encoder-attention"]}, id="the encoder's map is another one"),
        pytest.param({**SPARSE, "acts_at": ["cache-tokens"]}, {"needs": ["attention-map"]}, id="not at the operator"),
    ],
)
def test_no_conflict_over_the_map_where(atlas_of: MakeAtlas, kernel: dict[str, Any], reader: dict[str, Any]) -> None:
    assert not derived("map-without-kernel", atlas_of(kernel=kernel, reader=reader))


@pytest.mark.parametrize(
    ("owner_at", "reader_at", "reader_withholds", "conflict"),
    [
        pytest.param("encoder-layer", "adapter", [], True, id="the reader acts later"),
        pytest.param("adapter-output", "adapter", [], False, id="the reader acts earlier"),
        pytest.param("encoder-output", "encoder-output", [], False, id="at one place, the reader may go first"),
        pytest.param("encoder-output", "encoder-output", ["cls-token"], True, id="each withholds from the other"),
    ],
)
def test_what_is_withheld_is_missed_by_those_behind(
    atlas_of: MakeAtlas, owner_at: str, reader_at: str, reader_withholds: list[str], conflict: bool
) -> None:
    owner = {"acts_at": [owner_at], "needs": ["cls-token"], "withholds": ["whole-grid"]}
    reader = {"acts_at": [reader_at], "needs": ["whole-grid"], "withholds": reader_withholds}
    edges = derived("withheld-need", atlas_of(owner=owner, reader=reader))
    assert edges == ({("owner", "reader")} if conflict else set())


def test_needs_are_read_where_a_technique_acts_last_and_withheld_where_it_acts_first(atlas_of: MakeAtlas) -> None:
    long = {"acts_at": ["frames", "adapter-output"], "needs": ["whole-grid"]}
    assert derived(
        "withheld-need", atlas_of(long=long, drop={"acts_at": ["encoder-layer"], "withholds": ["whole-grid"]})
    )
    both = {"acts_at": ["encoder-layer", "llm-layer"], "withholds": ["whole-grid"]}
    assert derived("withheld-need", atlas_of(both=both, reader={"acts_at": ["adapter"], "needs": ["whole-grid"]}))
