"""Results stand where they can be compared: one measure and model together, most tokens kept first, none left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from tests.graph.conftest import SOURCE, experiment

import lvlm_atlas
from lvlm_atlas.atlas.shelves import UnknownIdError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.result_words import kept_of, sentence, value_of
from lvlm_atlas.graph.results import comparable, grouped, results_of
from lvlm_atlas.graph.terms import UnknownValueError


@pytest.fixture
def reporting(atlas_of: Callable[..., Any]) -> Callable[..., KnowledgeBase]:
    """Makes a knowledge base of techniques that report the given experiments."""

    def make(**experiments: list[dict[str, Any]]) -> KnowledgeBase:
        return KnowledgeBase(atlas_of(**{id_: {"reported": reported} for id_, reported in experiments.items()}))

    return make


def gqa(value: float, model: str = "M", **fields: Any) -> dict[str, Any]:
    return experiment(model, benchmark="gqa", value=value, **fields)


def test_one_benchmark_and_model_stand_together_by_tokens_kept(reporting: Callable[..., KnowledgeBase]) -> None:
    kb = reporting(
        a=[gqa(50, tokens_kept=64, tokens_full=576), gqa(58, share_kept=0.5), gqa(40, "Another")],
        b=[gqa(55, "m", share_kept=0.25), gqa(51), experiment("M", metric="ttft", value=2)],
    )
    rows = kb.results()
    assert [(row.technique, row.value) for row in rows] == [
        ("a", 40), ("a", 58), ("b", 55), ("a", 50), ("b", 51), ("b", 2),
    ]  # fmt: skip
    assert [len(group) for group in grouped(rows)] == [1, 4, 1]  # `M` and `m` are one model


def test_two_sources_that_disagree_are_both_there(reporting: Callable[..., KnowledgeBase]) -> None:
    other = {**SOURCE, "paper": "roe2023sample"}
    kb = reporting(a=[gqa(60, share_kept=0.5), gqa(57, share_kept=0.5, source=other)], b=[gqa(59, share_kept=0.5)])
    assert [(row.value, row.paper) for row in kb.results("a")] == [(60, "doe2025sample"), (57, "roe2023sample")]
    assert [row.value for row in kb.results()] == [60, 57, 59]


@pytest.mark.parametrize(
    ("number", "percent"),
    [
        ({"benchmark": "gqa", "value": 31, "baseline": 62}, 50),
        ({"benchmark": "gqa", "value": 31}, None),
        ({"metric": "ttft", "value": 4, "unit": "×"}, 25),  # four times faster
        ({"metric": "throughput", "value": 4, "unit": "×"}, 400),  # four times as many
        ({"metric": "memory", "value": 80, "unit": "% less"}, 20),
        ({"metric": "throughput", "value": 80, "unit": "% more"}, 180),
        ({"metric": "flops", "value": 57, "unit": "% of baseline"}, 57),
        ({"metric": "ttft", "value": 50, "baseline": 200, "unit": "ms"}, 25),
        ({"metric": "ttft", "value": 0.1, "baseline": 0}, None),
    ],
)
def test_a_number_is_related_to_the_unmodified_model(
    reporting: Callable[..., KnowledgeBase], number: dict[str, Any], percent: float | None
) -> None:
    (row,) = reporting(a=[experiment("M", **number)]).results()
    assert row.percent_of_baseline == percent


def test_a_filter_takes_names_aliases_and_broader_words(reporting: Callable[..., KnowledgeBase]) -> None:
    kb = reporting(
        a=[
            experiment("LLaVA-1.5-7B", benchmark="mme-perception", value=1500),
            experiment("LLaVA-1.5-7B", benchmark="mme", value=1800),
            experiment("Other", metric="ttft", value=1),
        ]
    )
    assert [row.measure for row in kb.results(benchmark="MME-P")] == ["mme-perception"]
    assert {row.measure for row in kb.results(benchmark="mme")} == {"mme", "mme-perception"}
    assert [row.measure for row in kb.results(metric="time to first token")] == ["ttft"]
    assert {row.measure for row in kb.results(benchmark="mme-perception", metric="ttft")} == {"mme-perception", "ttft"}
    assert [row.value for row in kb.results(model="llava 1.5 7b")] == [1800, 1500]
    with pytest.raises(UnknownValueError, match="did you mean 'mme'"):
        kb.results(benchmark="mmme")
    with pytest.raises(UnknownIdError, match="did you mean 'Other'"):
        kb.results(model="Otter")


def test_a_query_decides_whose_results(reporting: Callable[..., KnowledgeBase]) -> None:
    kb = reporting(a=[gqa(1)], b=[gqa(2)])
    assert [row.technique for row in kb.results("b")] == ["b"]


def test_only_what_two_techniques_report_of_a_named_model_is_comparable(
    reporting: Callable[..., KnowledgeBase],
) -> None:
    kb = reporting(
        a=[gqa(1), gqa(2), gqa(3, "Own"), gqa(4, "Own"), gqa(5, "not named")],
        b=[gqa(6), gqa(7, "not named")],
    )
    assert sorted(row.value for row in comparable(kb.results())) == [1, 2, 6]


def test_a_result_in_words_says_what_decides_it(reporting: Callable[..., KnowledgeBase]) -> None:
    kb = reporting(
        a=[
            gqa(60.4, baseline=62.0, tokens_kept=64, tokens_full=576, setting={"keep_ratio": 0.5}, device="A100"),
            experiment("M", metric="tpot", value=2.68, unit="×", qualifier="up-to", data="videos", share_kept=0.1),
        ]
    )
    score, speed = results_of(kb.atlas, kb.technique("a"))
    assert sentence(score) == "gqa 60.4 % (62 % without): M, keep_ratio=0.5, 64 (11.1 %) vision tokens, A100"
    assert sentence(speed) == "tpot up to 2.68 × on videos: M, 10 % of the vision tokens"
    assert (value_of(speed), kept_of(score)) == ("up to 2.68 ×", "64 (11.1 %)")


def test_a_query_finds_by_benchmark_metric_and_model(kb: KnowledgeBase) -> None:
    assert kb.query("reported-on:gqa").ids == kb.query("benchmark:GQA").ids == ("fastv",)
    assert kb.query("reports:ttft").ids == kb.query("reported-for:llava-1.5-7b").ids == ("fastv",)
    assert kb.query("reported_on:pope").ids == ()


def test_no_number_of_the_catalog_is_lost_or_without_a_source() -> None:
    kb = lvlm_atlas.load()
    rows = kb.results()
    written = [result.value for t in kb.atlas.techniques.values() for e in t.reported for result in e.results]
    assert sorted(row.value for row in rows) == sorted(written)
    assert len(rows) > 200
    for row in rows:
        assert row.paper in kb.atlas.papers
        assert row.unit
        assert row.percent_of_baseline is None or math.isfinite(row.percent_of_baseline)


def test_what_a_query_requires_of_results_is_required_of_each(reporting: Callable[..., KnowledgeBase]) -> None:
    kb = reporting(
        a=[gqa(50), gqa(40, "Another"), experiment("M", benchmark="mme", value=1500)],
        b=[experiment("M", metric="ttft", value=2)],
    )

    def values(query: str, **asked: str) -> list[float]:
        return sorted(row.value for row in kb.results(query, **asked))

    assert values("benchmark:gqa") == [40, 50]
    assert values("reported_on:gqa and model:M") == [50]
    assert values("metric:ttft") == [2]
    # Of several, or of what only some answers must have, all results of the techniques are shown.
    assert len(values("benchmark:gqa and benchmark:mme")) == 3
    assert len(values("benchmark:gqa or metric:ttft")) == 4
    assert values("benchmark:gqa", benchmark="mme") == [1500]
