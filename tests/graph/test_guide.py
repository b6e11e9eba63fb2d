from __future__ import annotations

from lvlm_atlas.graph.field_table import FIELDS
from lvlm_atlas.graph.guide import QUESTIONS, guide
from lvlm_atlas.graph.knowledge import KnowledgeBase


def test_every_example_of_the_guide_is_a_query(kb: KnowledgeBase) -> None:
    shown = guide(kb.atlas)
    for entry in (*shown.fields, *shown.relations, *shown.operators):
        if entry.example != "paper:chen2024fastv":  # the small atlas has other papers
            kb.query(entry.example)


def test_every_question_has_an_answer(kb: KnowledgeBase) -> None:
    assert len(QUESTIONS) >= 5
    for question in QUESTIONS:
        assert question.words.endswith("?")
        kb.query(question.query)


def test_every_listed_value_of_a_field_is_one(kb: KnowledgeBase) -> None:
    for field in FIELDS:
        values = field.known(kb.atlas)
        assert values
        for value in values:
            kb.query(f'{field.name}:"{value}"')


def test_words_that_users_bring_are_synonyms_of_fields(kb: KnowledgeBase) -> None:
    synonyms = {entry.written: entry.synonyms for entry in guide(kb.atlas).fields}
    for written, word in (("stage:", "phase:"), ("bound:", "bottleneck:"), ("acts_at:", "position:")):
        assert word in synonyms[written]
    assert "engine:" in synonyms["shipped_in:"]
    assert kb.query("phase:decoding").ids == kb.query("stage:decoding").ids
    assert kb.query("bottleneck:compute").ids == kb.query("bound:compute").ids


def test_no_two_fields_share_a_name() -> None:
    names = [name for field in FIELDS for name in (field.name, *field.aliases)]
    assert len(set(names)) == len(names)
