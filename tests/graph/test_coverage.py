"""The catalog held against published lists."""

from dataclasses import replace

import pytest

import lvlm_atlas
from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.coverage import counts, coverage
from lvlm_atlas.schema.survey_list import Section, SurveyList, Work


def a_list(*works: Work, stage: str = "prefilling") -> SurveyList:
    return SurveyList.model_validate(
        {
            "id": "made-up", "name": "Made up", "summary": "A list.",
            "source": {"paper": "zhang2026survey", "place": "fig. 3"},
            "sections": (Section(heading=("Prefilling",), stage=stage, works=works),),
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return lvlm_atlas.load().atlas


def test_each_work_is_in_the_state_of_its_entry(atlas: Atlas) -> None:
    described = atlas.technique("fastv").model_copy(update={"id": "fastv-2", "reference": None})
    atlas = replace(atlas, techniques={**atlas.techniques, "fastv-2": described})
    works = [Work(name=id_, technique=id_) for id_ in ("fastv", "fastv-2", "elasticmm", "nobody-wrote-it")]
    rows = coverage(atlas, a_list(*works))
    assert [row.state for row in rows] == ["running", "described", "system", "missing"]
    assert counts(rows) == {"running": 1, "described": 1, "system": 1, "missing": 1}


def test_a_work_under_two_headings_is_counted_once(atlas: Atlas) -> None:
    fastv = Work(name="FastV", technique="fastv")
    twice = a_list(fastv)
    twice = twice.model_copy(update={"sections": twice.sections * 2})
    assert len(coverage(atlas, twice)) == 2
    assert counts(coverage(atlas, twice)) == {"running": 1}


@pytest.mark.parametrize(
    ("stage", "free", "differences"),
    [
        ("prefilling", True, 0),
        ("prefilling", None, 0),
        ("prefilling", False, 1),
        ("encoding", True, 1),
        ("encoding", False, 2),
    ],
)
def test_differences_are_named_where_the_list_says_otherwise(
    atlas: Atlas, stage: str, free: bool | None, differences: int
) -> None:
    assert atlas.technique("fastv").training == "none"
    (row,) = coverage(atlas, a_list(Work(name="FastV", technique="fastv", training_free=free), stage=stage))
    assert len(row.differences) == differences


def test_no_list_calls_a_technique_by_another_id_than_its_own(atlas: Atlas) -> None:
    """It would be counted as missing. Two works may share a name, if the list has both."""
    ids = {technique.name: technique.id for technique in atlas.techniques.values()}
    for list_ in atlas.lists.values():
        rows = coverage(atlas, list_)
        listed = {row.work.technique for row in rows}
        named = [(row.work.technique, ids[row.work.name]) for row in rows if row.work.name in ids]
        assert len(named) >= 10
        assert [pair for pair in named if pair[0] != pair[1] and pair[1] not in listed] == []
