"""What surrounds a technique, as rows to read and as sentences."""

from __future__ import annotations

from dataclasses import replace

from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.neighbourhood import Neighbour, Remainder, by_law, folded, neighbourhood


def test_the_neighbourhood_holds_each_edge_on_the_way_out_once(kb: KnowledgeBase) -> None:
    for start in kb.atlas.techniques:
        distance = {start: 0} | {end: len(path) - 1 for end, path in kb.paths(start, 9).items()}
        for depth in (1, 2):
            rows = neighbourhood(kb, start, depth)
            edges = [row.edge for row in rows]
            near = [e for e in kb.edges if min(distance.get(end, 99) for end in e.ends) < depth]
            assert sorted(edges, key=repr) == sorted(near, key=repr)
            assert all(distance[row.id] == row.step - 1 and {row.id, row.other} == row.edge.ends for row in rows)


def test_the_neighbourhood_reads_outwards(kb: KnowledgeBase) -> None:
    rows = {(row.reads, row.other) for row in neighbourhood(kb, "speculative-sampling")}
    assert ("is the base of", "specvlm-ji") in rows
    assert ("conflicts with", "specvlm-ji") in rows


def test_a_short_neighbourhood_shows_some_of_each_kind_and_names_the_rest(kb: KnowledgeBase) -> None:
    (row,) = (row for row in neighbourhood(kb, "specvlm-ji") if row.reads == "conflicts with")
    edges = [row.edge._replace(strength=number / 10, evidence="predicted") for number in range(4)]
    many = [Neighbour(1, row.id, row.reads, f"t{number}", edge) for number, edge in enumerate(edges)]
    first, second, rest, stated = folded([*many, row], 2)
    assert [each.other for each in (first, second) if isinstance(each, Neighbour)] == ["t3", "t2"]
    assert rest == Remainder(1, "specvlm-ji", "conflicts with", True, ("t1", "t0"))
    assert stated == row


def test_the_laws_are_said_of_a_technique_by_place_and_number_and_name_no_other(kb: KnowledgeBase) -> None:
    law = by_law(kb, "visionzip")
    before = [
        term.id for term in kb.atlas.terms("position") if term.order < kb.atlas.term("position", "encoder-output").order
    ]
    assert [place.id for place in law.fed_by] == before
    assert (law.feeds[0].id, law.feeds[-1].id) == ("adapter", "decode-loop")
    assert (law.shared, law.sharing) == (("vision-tokens",), 1)
    assert len(law.sentences) == 3
    assert not any(
        other in sentence for sentence in law.sentences for other in set(kb.atlas.techniques) - {"visionzip"}
    )


def test_the_queries_that_the_sentences_name_find_what_acts_at_those_places(kb: KnowledgeBase) -> None:
    law = by_law(kb, "visionzip")
    for relation, places in (("is-fed-by", law.feeds), ("cascades-to", law.fed_by)):
        found = kb.query(f"{relation}(visionzip)").ids
        orders = {place.order for place in places}
        assert found
        assert all(orders & {each.order for each in kb.laws.placed(id_)} for id_ in found)


def test_a_technique_that_no_law_touches_has_no_sentence(kb: KnowledgeBase) -> None:
    stop = kb.technique("kivi").model_copy(update={"effects": (), "id": "kivi"})
    other = type(kb)(replace(kb.atlas, techniques={**kb.atlas.techniques, "kivi": stop}))
    assert by_law(other, "kivi").sentences == ()
