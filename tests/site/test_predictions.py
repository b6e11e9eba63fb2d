"""Pages of models, devices, workloads and techniques say what the engine says, and call it predicted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import lvlm_atlas
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline import units
from lvlm_atlas.roofline.deployment import TYPICAL, Deployment
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.effect import effect_of
from lvlm_atlas.site.estimates import REFERENCE
from lvlm_atlas.site.models import predictions, reference_case


@pytest.fixture(scope="module")
def content(catalog: lvlm_atlas.KnowledgeBase) -> Content:
    return Content(catalog)


@pytest.fixture(scope="module")
def planner(checkout: Path) -> Planner:
    """The way to the same numbers that users take."""
    return Planner(checkout)


def shown(page: Path) -> str:
    """The text of a built page, without marks; cells are set apart."""
    html = re.sub(r"<(script|style|head).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", re.sub(r"<t[dh]\b[^>]*>", " | ", html))))


TOO_LARGE = {"kimi-k2.5"}
"""Models of which eight reference devices cannot hold the weights in 16 bits."""


def test_every_model_shows_what_the_engine_predicts(content: Content, site: Path, planner: Planner) -> None:
    for id_, model in content.atlas.models.items():
        text = shown(site / f"models/{id_}.html")
        case = reference_case(content, id_)
        if case is None:
            assert id_ in TOO_LARGE
            assert "not even eight reference devices hold this model" in text
            continue
        assert "predicted" in text
        for workload in content.atlas.workloads:
            ideal = Deployment(tensor_parallel=case.devices)
            typical = planner.paced(ideal, efficiency=TYPICAL.name)
            if content.atlas.workloads[workload].videos and model.tokens.video is None:
                assert f"{model.name} takes no video" in text
                continue
            bound = planner.estimate(id_, REFERENCE.device, workload, deployment=ideal)
            real = planner.estimate(id_, REFERENCE.device, workload, deployment=typical)
            for name in ("ttft_s", "tpot_s", "total_s"):
                pair = f"{units.seconds(getattr(bound, name))} ({units.seconds(getattr(real, name))})"
                assert pair in text, (id_, workload, name)
            assert units.size(bound.memory.kv_byte) in text
        assert units.parameters(model.params.total) in text


def test_every_worked_example_stands_on_the_page(content: Content, site: Path) -> None:
    for id_, model in content.atlas.models.items():
        text = shown(site / f"models/{id_}.html")
        for example in model.tokens.examples:
            assert f"{units.number(example.vit_tokens)} | {units.number(example.llm_tokens)}" in text, id_


def test_every_device_shows_its_ridges_and_what_fits(content: Content, site: Path, planner: Planner) -> None:
    for id_, device in content.estimates.devices.items():
        text = shown(site / f"devices/{id_}.html")
        for dtype, peak in device.peak_flop_s.items():
            assert f"{dtype} | {units.rate(peak)} | {units.number(device.ridge(dtype))}" in text, id_
        estimate = planner.estimate(REFERENCE.model, id_, REFERENCE.workload)
        assert f"first token after {units.seconds(estimate.ttft_s)}" in text
        assert ("It does not fit" in text) == (not estimate.fits)


def test_a_model_fits_where_the_engine_says_so(content: Content, site: Path, planner: Planner) -> None:
    for device in ("h200-sxm", "rtx-4090", "apple-m4-max-40"):
        text = shown(site / f"devices/{device}.html").partition("Which models fit")[2]
        for id_, model in content.estimates.models.items():
            row = text.partition(f" {model.name} | ")[2].split(" | ")
            bound = planner.estimate(id_, device, REFERENCE.workload)
            fits = bound.memory.device_byte + bound.device.typical.reserve_byte <= bound.device.memory_byte
            assert (row[3] == "one") == fits, (device, id_, row)


def test_models_that_one_device_cannot_hold_are_shown_on_several(content: Content, site: Path) -> None:
    case = reference_case(content, "qwen2.5-vl-72b")
    assert case is not None
    assert case.devices == 2
    assert "2 × NVIDIA H200" in shown(site / "models/qwen2.5-vl-72b.html")


def test_the_cache_of_a_token_is_what_the_engine_stores(content: Content) -> None:
    assert content.estimates.kv_byte("qwen2.5-vl-7b") == 57344
    assert content.estimates.kv_byte("llava-1.5-7b") == 524288
    assert content.estimates.kv_byte("deepseek-vl2") == 34560


def test_every_technique_says_what_it_does_to_the_reference(content: Content, site: Path, planner: Planner) -> None:
    for technique in content.techniques:
        effect, case = effect_of(content, technique), effect_of(content, technique).case
        html = (site / f"techniques/{technique.id}.html").read_text(encoding="utf-8")
        section = html.partition("id=predicted")[2].partition("<h2")[0]
        if not effect.before:
            assert "No prediction" in section
            continue
        assert "la-badge--predicted" in section
        after = planner.estimate(case.model, case.device, case.workload, stack=[technique.id])
        for name in ("ttft_s", "tpot_s", "total_s"):
            assert units.seconds(getattr(after, name)) in unescape(section), (technique.id, name)
        command = unescape(re.sub(r"<[^>]+>", "", section))
        assert f"--workload {case.workload} --stack {technique.id}" in command
        assert bool(effect.why_not) == (case != REFERENCE)


def test_a_technique_is_shown_on_a_request_that_it_can_run_on(content: Content) -> None:
    cases = {id_: effect_of(content, technique).case for id_, technique in content.atlas.techniques.items()}
    assert cases["fastv"] == REFERENCE
    assert cases["visionzip"].model == "llava-1.5-7b"  # it reads the class token's attention
    assert cases["adaptive-keyframe-sampling"].workload == "video-60s"


def test_an_effect_that_does_nothing_is_said_to_change_nothing(content: Content) -> None:
    sparse = effect_of(content, content.atlas.techniques["xattention"])
    gains = {name: gain for name, _, _, gain in sparse.rows}
    assert gains["Encoding"] == gains["Decoding"] == units.NO_CHANGE
    assert sparse.taken
    every = (said for technique in content.techniques for said in effect_of(content, technique).taken)
    assert any("bound that saves least" in said for said in every)


def test_the_bars_of_a_technique_share_one_scale(content: Content, site: Path) -> None:
    html = (site / "techniques/fastv.html").read_text(encoding="utf-8")
    picture = html.partition("la-effect-title")[2].partition("</svg>")[0]
    widths = [float(width) for width in re.findall(r"<rect[^>]* width=([\d.]+)", picture)]
    effect = effect_of(content, content.atlas.techniques["fastv"])
    assert effect.before is not None
    assert effect.after is not None
    times = [e.stages[name].time_s for name in effect.before.stages for e in (effect.before, effect.after)]
    scale = max(widths) / max(times)
    assert widths == pytest.approx([time * scale for time in times], abs=0.2)


def test_what_is_known_and_what_is_predicted_of_pairs_stand_apart(site: Path) -> None:
    html = (site / "techniques/fastv.html").read_text(encoding="utf-8")
    together = html.partition("id=together")[2].partition("id=reported")[0]
    known, _, predicted = together.partition("la-numbers--predicted")
    assert "la-badge--reasoned" in known
    assert "expected in total time" not in known
    assert "expected in total time" in predicted
    document = json.loads((site / "techniques/fastv.json").read_text(encoding="utf-8"))
    assert "predicted" in {edge["evidence"] for edge in document["interactions"]}


def test_the_json_of_a_model_has_the_record_and_the_predictions(content: Content, site: Path) -> None:
    for id_, record in content.atlas.models.items():
        document = json.loads((site / f"models/{id_}.json").read_text(encoding="utf-8"))
        assert type(record).model_validate_json(json.dumps(document["model"])) == record
        case = reference_case(content, id_)
        if case is None:
            assert id_ in TOO_LARGE
            continue
        made = [each.bound for each in predictions(content, case) if each.bound]
        assert [each["ttft_s"] for each in document["predicted"]] == [each.ttft_s for each in made]
        assumed = [{*document["assumptions"], *each["assumptions"]} for each in document["predicted"]]
        assert assumed == [{*each.assumptions} for each in made]
    for id_, device in content.atlas.hardware.items():
        document = json.loads((site / f"devices/{id_}.json").read_text(encoding="utf-8"))
        assert type(device).model_validate_json(json.dumps(document["device"])) == device


def test_every_workload_has_a_place_to_link_to(content: Content, site: Path, read: Callable[[Path], Any]) -> None:
    ids = read(site / "workloads.html").ids
    assert {f"workload-{id_}" for id_ in content.atlas.workloads} <= ids.keys()


def test_an_atlas_without_models_has_its_pages_all_the_same(odd_site: Path) -> None:
    assert "0 vision-language models" in shown(odd_site / "models/index.html")
    assert "Where does the time go" not in shown(odd_site / "index.html")
    assert "No prediction: the catalog lacks the reference model" in shown(odd_site / "techniques/kivi.html")
