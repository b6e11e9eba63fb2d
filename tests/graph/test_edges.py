from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.edges import MEASURED, stored_edges
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.laws import Laws
from lvlm_atlas.graph.relations import reading, relation_named, relations
from lvlm_atlas.schema.measurement import Machine
from lvlm_atlas.schema.stack import VERDICTS, Departure, MeasuredStack, Member, StackTask, Verdict


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


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_record_of_a_pair_is_a_measured_edge_that_settles_nothing(kb: KnowledgeBase, verdict: Verdict) -> None:
    measured = KnowledgeBase(replace(kb.atlas, stacks={"divprune.h2o": a_pair("h2o", "divprune", verdict)}))
    (edge,) = (each for each in measured.between("h2o", "divprune") if each.evidence == "measured")
    assert (edge.start, edge.kind, edge.end) == ("divprune", MEASURED[verdict], "h2o")
    assert edge.source == "record divprune.h2o"
    assert "h2o 90% and divprune 80% are kept alone" in edge.reason
    assert edge in measured.interactions("divprune")
    assert measured.related("h2o", edge.kind) == (measured.technique("divprune"),)
    assert measured.relation("h2o", "divprune") == kb.relation("h2o", "divprune")
    assert {*measured.edges} - {*kb.edges} == {edge}


def test_a_record_of_three_or_of_techniques_that_are_gone_is_no_edge(kb: KnowledgeBase) -> None:
    records = {
        "divprune.fastv.h2o": a_pair("h2o", "divprune", "additive"),
        "divprune.gone": a_pair("gone", "divprune", "additive"),
    }
    assert KnowledgeBase(replace(kb.atlas, stacks=records)).edges == kb.edges


def a_pair(one: str, two: str, verdict: Verdict) -> MeasuredStack:
    off = {"additive": 0.0, "redundant": -0.1, "harmful": 0.1}[verdict]
    task = StackTask(checkpoint="lab-a", task="read", samples=1, full="1", alone=("1", "1"), joint="1")
    return MeasuredStack(
        id=f"{two}.{one}", date="2026-11-30", version="0", checkpoints={"lab-a": "0" * 64}, verdict=verdict,
        machine=Machine(device="a", kind="cpu", python="3.11", torch="2", system="Linux"), kept=0.7 - off,
        members=(Member(technique=one, setting={}, kept=0.9), Member(technique=two, setting={}, kept=0.8)),
        departure=Departure(value=off, low=off - 0.05, high=off + 0.05), tasks=(task,),
    )  # fmt: skip
