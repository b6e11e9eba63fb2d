"""What Python shows of the atlas: short representations, iteration, Markdown, frames."""

from __future__ import annotations

from dataclasses import replace

import pandas
import pytest

import lvlm_atlas
from lvlm_atlas import AtlasError, Planner
from lvlm_atlas.graph.results import results_of
from lvlm_atlas.planner.quality import OVERALL, quality
from lvlm_atlas.specs.fits import problem

KB = lvlm_atlas.load()
PLANNER = Planner(kb=KB)
ESTIMATE = PLANNER.estimate("qwen2.5-vl-7b", "l40s", stack="fastv")
PLAN = PLANNER.plan("qwen2.5-vl-7b", "l40s", goal="ttft", max_techniques=1)
ANSWER = KB.query("stage:decoding training:none")


@pytest.mark.parametrize("thing", [KB, ANSWER, ESTIMATE, PLAN, KB["fastv"]], ids=lambda thing: type(thing).__name__)
def test_a_representation_is_a_line_and_markdown_is_there_for_notebooks(thing) -> None:
    assert "\n" not in repr(thing)
    assert len(repr(thing)) < 2000
    assert repr(thing) == str(thing)
    assert thing._repr_markdown_()


def test_what_holds_techniques_gives_them() -> None:
    assert [t.id for t in KB] == [*KB.atlas.techniques]
    assert (len(KB), KB["Fast-V"].id) == (len(KB.atlas.techniques), "fastv")
    assert tuple(t.id for t in ANSWER) == ANSWER.ids
    with pytest.raises(AtlasError, match="did you mean 'fastv'"):
        KB["fastvv"]


@pytest.mark.parametrize("thing", [KB, ANSWER, ESTIMATE, PLAN], ids=lambda thing: type(thing).__name__)
def test_a_frame_has_a_row_a_record(thing) -> None:
    frame = thing.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == len(thing.records()) > 0
    assert [*frame.columns] == [*thing.records()[0]]


def test_a_plan_gives_its_stacks_and_their_numbers() -> None:
    assert [option.label for option in PLAN] == [option.label for option in PLAN.front]
    first, best = PLAN.records()[:2]
    assert (first["stack"], first["rank"], len(PLAN)) == ("", 0, len(PLAN.front))
    assert best["ttft_s"] == PLAN.front[0].estimate.ttft_s < first["ttft_s"]
    assert f"| 1 | {PLAN.front[0].label} |" in PLAN._repr_markdown_()


def test_a_request_and_an_efficiency_are_given_as_on_the_command_line() -> None:
    request = PLANNER.request(image="1280x720", images=5, output=9, batch=2)
    assert (request.images[0].count, request.output_tokens, request.batch) == (5, 9, 2)
    typical = PLANNER.estimate("qwen2.5-vl-7b", "l40s", request, efficiency="typical")
    assert typical.deployment.efficiency.name == "typical"
    assert typical.ttft_s > PLANNER.estimate("qwen2.5-vl-7b", "l40s", request).ttft_s
    assert PLANNER.request(request, turns=3) == replace(request, turns=3, id=f"{request.id}:turns=3")
    with pytest.raises(AtlasError, match="efficiency"):
        PLANNER.estimate("qwen2.5-vl-7b", "l40s", efficiency="perfect")


def test_names_at_the_top_are_those_below() -> None:
    assert lvlm_atlas.Planner is Planner
    assert lvlm_atlas.Deployment(tensor_parallel=2).devices == 2
    assert lvlm_atlas.__version__
    with pytest.raises(AttributeError, match="Plannner"):
        lvlm_atlas.Plannner  # noqa: B018


def test_a_workload_is_meant_by_the_id_that_estimates_print() -> None:
    request = PLANNER.request("document-pages", images=5, output=9)
    assert PLANNER.workload(request.id) == request
    assert PLANNER.workload("document-pages:image=640x480,image=320x240").images[1].width == 320
    for wrong, said in (("document-pages:images", "write name=value"), ("document-pages:pages=3", "write name=value"),
                        ("document-pages:images=many", "no whole number")):  # fmt: skip
        with pytest.raises(AtlasError, match=said):
            PLANNER.workload(wrong)
    with pytest.raises(AtlasError, match="give an id, or what"):
        PLANNER.estimate("qwen2.5-vl-7b", "l40s", {"images": 10})  # type: ignore[arg-type]


def test_a_knowledge_base_holds_techniques_by_any_name_and_answers_have_places() -> None:
    assert "Fast-V" in KB
    assert [*KB.techniques] == [technique.id for technique in KB]
    assert "fastvv" not in KB
    assert KB["kivi"] in KB
    assert ANSWER[0].id == ANSWER.ids[0]
    with pytest.raises(AtlasError, match="joins two techniques"):
        KB.paths("fastv", "kivi")  # type: ignore[arg-type]


def test_a_plan_says_what_stands_between_a_stack_and_its_use() -> None:
    plan = PLANNER.plan("qwen2.5-vl-7b", "l40s", "document-pages", goal="ttft", max_techniques=2, described=True)
    options = [option for option in plan if any(KB[each.id].reference is None for each in option.estimate.stack)]
    assert options
    for option in options:
        assert any(text.startswith("only described, no reference runs it: ") for text in option.warnings)
    free = PLANNER.plan("qwen2.5-vl-7b", "l40s", "document-pages", goal="ttft", training="none", max_techniques=1)
    assert not any("trained" in text for option in free for text in option.warnings)
    beyond = PLANNER.plan(
        "qwen2.5-vl-7b", "l40s", "document-pages", goal="ttft", max_techniques=1, require="fastv",
        settings=["fastv:keep_ratio=0.01"],
    )  # fmt: skip
    assert any("the least that its sources report on is" in text for option in beyond for text in option.warnings)
    shipped = PLANNER.plan("qwen2.5-vl-7b", "l40s", "images-20", goal="concurrency", require="kivi", max_techniques=1)
    assert KB["kivi"].shipped_in
    assert all(any(text.startswith("kivi: ") for text in option.shipped) for option in shipped)
    assert len(shipped) == 1


def test_what_is_only_described_is_searched_where_it_is_asked_for() -> None:
    described = {technique.id for technique in KB.atlas.techniques.values() if technique.reference is None}
    plan = PLANNER.plan("qwen2.5-vl-7b", "l40s", "document-pages", goal="ttft", max_techniques=1)
    assert described.isdisjoint(each.id for option in plan for each in option.estimate.stack)
    left_out = {each.what: each.why for each in plan.left_out}
    assert described <= left_out.keys()
    model, workload = PLANNER.model("qwen2.5-vl-7b"), PLANNER.workload("document-pages")
    wanted = next(id_ for id_ in sorted(described) if not problem(KB[id_], model, workload))
    assert "--described" in left_out[wanted]
    for asked in ({"described": True}, {"require": wanted}, {"settings": [wanted]}):
        plan = PLANNER.plan("qwen2.5-vl-7b", "l40s", "document-pages", goal="ttft", max_techniques=1, **asked)
        assert wanted not in {each.what for each in plan.left_out if "--described" in each.why}


def test_the_quality_of_a_stack_is_that_of_each_technique_nearest_to_the_request() -> None:
    plan = PLANNER.plan("qwen2.5-vl-7b", "l40s", "document-pages", goal="ttft", require="divprune", max_techniques=1)
    kept = plan.front[0].quality["divprune"]
    of_quality = [each for each in plan.front[0].reported["divprune"] if each.percent_of_baseline is not None]
    assert kept is not None
    assert kept.model == "qwen2.5-vl-7b"
    same = [each for each in of_quality if each.model == kept.model and each.share_kept is not None]
    assert abs(kept.share_kept - 0.1) == min(abs(each.share_kept - 0.1) for each in same)
    assert plan.records()[1]["quality_percent"] == kept.percent_of_baseline


def test_quality_is_never_a_speed_nor_a_number_without_a_baseline() -> None:
    results = [each for technique in KB.atlas.techniques.values() for each in results_of(KB.atlas, technique)]
    kept = quality(results, "llava-1.5-7b", 0.5)
    assert kept is not None
    assert kept.percent_of_baseline is not None
    assert kept.model == "llava-1.5-7b"
    speeds = [each for each in results if each.kind == "metric" and each.measure != OVERALL]
    assert speeds
    assert quality(speeds, "llava-1.5-7b", 0.5) is None
