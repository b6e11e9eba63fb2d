"""What the pages answer by themselves: the engine's numbers, written short, and the planner's stacks."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.atlas.snapshot import SWITCH
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner import Planner
from lvlm_atlas.roofline.costs import Cost
from lvlm_atlas.site.answers.__main__ import main
from lvlm_atlas.site.answers.answer import Answers
from lvlm_atlas.site.answers.figures import read, shown, written
from lvlm_atlas.site.answers.index import numbers
from lvlm_atlas.site.answers.kept import folder_of, intact
from lvlm_atlas.site.answers.scope import Scope, scope
from lvlm_atlas.site.answers.script import script
from lvlm_atlas.site.answers.work import computing
from lvlm_atlas.site.content import Content

PLANNER = Planner()
CONTENT = Content(PLANNER.kb)
SCOPE = Scope(("l40s", "h200-sxm"), ("l40s", "h200-sxm"), ("images-20", "multi-turn", "video-60s"))
ASKED = Path(__file__).resolve().parents[2] / "site/answers.yaml"
seconds = st.one_of(st.just(0.0), st.floats(1e-7, 1e4))
costs = st.builds(
    Cost, seconds, seconds, seconds, seconds, seconds, st.floats(1e6, 1e13), st.one_of(st.just(math.inf), seconds)
)


def costs_in(text: str) -> Cost:
    return Cost(*map(float, text.split(",")))


@given(costs, costs)
def test_a_page_shows_of_a_written_cost_what_the_cost_itself_would(base: Cost, cost: Cost) -> None:
    again = costs_in(written(base))
    assert again == base
    assert shown(read(written(cost, base), again), again) == shown(cost, base)


@given(costs)
def test_a_technique_that_changes_nothing_is_written_as_nothing(base: Cost) -> None:
    usual = read("", base)
    assert written(usual, usual) == ""


@pytest.mark.parametrize("device", SCOPE.devices)
def test_the_answers_of_a_model_are_those_of_its_plans_and_estimates(device: str) -> None:
    answers = Answers(CONTENT, SCOPE, "qwen2.5-vl-7b", numbers(CONTENT))
    on_device, tried = answers.of_device(device), answers.of_model()
    order = [technique.id for technique in CONTENT.techniques]
    for workload in SCOPE.workloads:
        answer, ids = on_device[workload], [order[number] for number in tried[workload]["tried"]]
        base, rows = costs_in(answer["base"]), answer["rows"].split(";")
        assert len(ids) == len(rows)
        for id_, row in list(zip(ids, rows, strict=True))[::5]:
            estimate = PLANNER.estimate("qwen2.5-vl-7b", device, workload, stack=id_)
            cost = read(row, base)
            exact = [estimate.ttft_s, estimate.tpot_s, estimate.total_s, estimate.memory.device_byte]
            assert [cost.ttft_s, cost.tpot_s, cost.total_s, cost.device_byte] == pytest.approx(exact, rel=6e-3)
        plan = PLANNER.plan("qwen2.5-vl-7b", device, workload, goal="total", risk="lossy")
        assert [[ids[member] for member in members] for members, *_ in answer["stacks"]["total"]] == [
            [each.id for each in option.estimate.stack] for option in plan.front
        ]
        assert {id_ for _, some in tried[workload]["barred"] for id_ in some} == {
            order.index(lost.what) for lost in plan.left_out
        }


def test_a_request_that_the_model_cannot_take_has_the_reason_for_an_answer() -> None:
    answers = Answers(CONTENT, SCOPE, "llava-1.5-7b", numbers(CONTENT)).of_device("l40s")
    assert "takes no video" in answers["video-60s"]
    assert not isinstance(answers["images-20"], str)


def test_a_script_hands_over_what_json_says_and_ends_no_other() -> None:
    value = {"name": "</script><b> & \u2028 “é”", "numbers": [1, 0.5]}
    text = script("a/b", value)
    assert "<" not in text
    assert json.loads(text.partition('["a/b"] = ')[2].rstrip(";\n")) == value


def test_a_process_that_fails_ends_the_build_with_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(AtlasError, match=r"answers of the site cannot be computed: .*there is no folder taxonomy"),
        computing(tmp_path / "none", tmp_path) as place,
    ):
        place(tmp_path)


def test_a_second_build_takes_the_answers_of_the_first_unless_the_catalog_has_changed(
    odd_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "on")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "root"
    shutil.copytree(odd_root, root)
    changed = root / "papers.bib"
    kept = folder_of("answers", root, ASKED)
    assert kept is not None
    sites = []
    for name in ("first", "second"):
        with computing(root, ASKED) as place:
            place(tmp_path / name)
        assert intact(kept)
        sites.append({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.js")})
    assert sites[0] == sites[1] != {}
    kept.chmod(0o777)
    assert not intact(kept)  # others could have written it
    changed.write_text(changed.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert folder_of("answers", root, ASKED) != kept


def test_an_atlas_without_models_has_its_facets_and_pairs_all_the_same(odd_root: Path, tmp_path: Path) -> None:
    main(odd_root, ASKED, tmp_path, 0, 1)
    said = {
        path.stem: path.read_text(encoding="utf-8").partition("] = ")[2].rstrip(";\n") for path in tmp_path.glob("*.js")
    }
    index_, facets, pairs = (json.loads(said[name]) for name in ("index", "facets", "pairs"))
    assert index_["models"] == index_["devices"] == []
    assert {each["name"] for each in index_["techniques"]} >= {"KIVI", "Fast<3V | *x*"}
    assert {"value": "decoding", "name": "Decoding", "which": [1, 2]} in facets[0]["values"]
    assert len(pairs) == 3
    assert pairs[0][0] == "="


def test_what_the_site_asks_for_is_in_the_catalog_and_of_the_size_that_pages_promise() -> None:
    chosen = yaml.safe_load(ASKED.read_text(encoding="utf-8"))
    asked = scope(CONTENT, ASKED)
    assert {*chosen["devices"]} == {*asked.devices}
    assert {*chosen["workloads"]} == {*asked.workloads}
    assert len(asked.devices) >= 6
    assert len(asked.workloads) >= 6
    assert asked.devices_of("llava-1.5-7b") == asked.devices
    assert {*asked.devices_of("qwen2.5-vl-7b")} == {*PLANNER.kb.atlas.hardware}


def test_a_site_that_asks_for_nothing_is_asked_about_everything(tmp_path: Path) -> None:
    asked = scope(CONTENT, tmp_path / "none.yaml")
    assert asked.devices == asked.every_device
    assert {*asked.workloads} == {*PLANNER.kb.atlas.workloads}
