from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.edges import stored_edges
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.laws import Laws
from lvlm_atlas.graph.relations import reading, relation_named, relations


def test_a_stated_edge_is_not_derived_again_but_notes_the_rules_that_agree(kb: KnowledgeBase) -> None:
    (edge,) = (e for e in kb.between("xattention", "old-pruner") if e.kind == "conflicts-with")
    assert (edge.evidence, edge.rules) == ("reasoned", ("map-without-kernel",))
    assert edge.source == "doe2025sample, sec. 4; also rule map-without-kernel"


def test_edges_come_in_the_same_order_whatever_the_order_of_entries(kb: KnowledgeBase) -> None:
    turned = replace(kb.atlas, techniques=dict(sorted(kb.atlas.techniques.items(), reverse=True)))
    assert stored_edges(Laws(turned)) == kb.edges


def test_a_symmetric_edge_is_found_from_both_ends(kb: KnowledgeBase) -> None:
    for edge in kb.edges:
        assert edge in kb.interactions(edge.start)
        assert edge in kb.interactions(edge.end)
        if edge.symmetric:
            named = relation_named(kb.atlas, edge.kind)
            assert named.holds(edge, edge.start)
            assert named.holds(edge, edge.end)


def test_a_directed_edge_reads_differently_from_its_end(kb: KnowledgeBase) -> None:
    (edge,) = (e for e in kb.between("specvlm-ji", "speculative-sampling") if e.kind == "builds-on")
    assert reading(kb.atlas, edge, "specvlm-ji") == "builds on"
    assert reading(kb.atlas, edge, "speculative-sampling") == "is the base of"


def test_each_directed_kind_has_an_inverse_and_no_two_relations_share_a_name(kb: KnowledgeBase) -> None:
    table = relations(kb.atlas)
    names = [name for relation in table for name in (relation.name, *relation.aliases) if name]
    assert len(set(names)) >= len({relation.name for relation in table}) == len(table)
    for relation in table:
        inverse = [other for other in table if other.kind == relation.kind and other.inverse]
        assert len(inverse) == (0 if relation.symmetric else 1)


def test_an_edge_to_an_unknown_technique_names_the_entry(atlas_of: Callable[..., Atlas]) -> None:
    said = {"kind": "requires", "with": "gone", "reason": "It does.", "evidence": "reported",
            "source": {"paper": "doe2025sample", "place": "p. 1"}}  # fmt: skip
    with pytest.raises(AtlasError, match=r"catalog/techniques/a\.yaml: interactions: no technique 'gone'"):
        stored_edges(Laws(atlas_of(a={"interactions": [said]})))
