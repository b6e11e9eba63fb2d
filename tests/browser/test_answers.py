"""The page answers what the command line answers, from a server and from a folder."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from lvlm_atlas.planner import Planner
from lvlm_atlas.roofline import units

PLANNER = Planner()
ASKED = {"model": "qwen2.5-vl-7b", "device": "l40s", "workload": "images-20", "goal": "ttft"}
ADDRESS = "?" + "&".join(f"{name}={id_}" for name, id_ in ASKED.items())


@pytest.fixture(params=["server", "folder"])
def site(request: pytest.FixtureRequest, browser: Any, folder: Path) -> Any:
    """A page of its own, and where the site lies."""
    where = request.getfixturevalue("address") if request.param == "server" else folder.as_uri()
    context = browser.new_context()
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    yield page, where
    context.close()
    assert not [each for each in troubles if "search_index" not in each]


def told(*arguments: str) -> Any:
    """What the command line says, as JSON."""
    command = [sys.executable, "-m", "lvlm_atlas", *arguments, "--format", "json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def rows(page: Any, label: str) -> list[list[str]]:
    """The cells of a table."""
    table = page.get_by_role("region", name=label).first
    table.wait_for()
    return [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]


def test_a_page_shows_the_stacks_and_numbers_of_the_command_line(site: Any) -> None:
    page, where = site
    page.goto(f"{where}/index.html{ADDRESS}")
    shown = rows(page, "Best stacks")
    command = page.locator(".la-answer pre code").first.inner_text()
    plan = told(*command.split()[1:])
    base = plan["baseline"]["ttft_s"]
    names = PLANNER.kb.atlas.techniques
    assert [cells[0] for cells in shown[1:]] == [
        " + ".join(names[each].name for each in option["stack"]) for option in plan["front"]
    ]
    assert [cells[1:3] for cells in shown[1:]] == [
        [f"{base / option['ttft_s']:.2f} ×", units.seconds(option["ttft_s"])] for option in plan["front"]
    ]
    assert [cells[4] for cells in shown[1:]] == [option["risk"] for option in plan["front"]]


def test_each_technique_alone_has_the_numbers_of_its_estimate(site: Any) -> None:
    page, where = site
    page.goto(f"{where}/models/qwen2.5-vl-7b.html{ADDRESS}")
    shown = {cells[0]: cells for cells in rows(page, "Techniques alone")}
    plain = PLANNER.estimate("qwen2.5-vl-7b", "l40s", "images-20")
    assert len(shown) == 10
    for technique in PLANNER.kb.atlas.techniques.values():
        if technique.name in shown:
            now = PLANNER.estimate("qwen2.5-vl-7b", "l40s", "images-20", stack=technique.id)
            times = [units.seconds(each) for each in (now.ttft_s, now.tpot_s, now.total_s)]
            expected = [units.gain(plain.ttft_s, now.ttft_s), *times, units.size(now.memory.device_byte)]
            cells = shown[technique.name]
            assert [cells[1], *cells[3:7]] == expected


def test_a_choice_by_keyboard_goes_into_the_address_and_comes_back(site: Any) -> None:
    page, where = site
    page.goto(f"{where}/devices/l40s.html")
    page.get_by_role("region", name="Techniques alone").first.wait_for()
    page.get_by_label("Goal").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_url("**goal=tpot**")
    assert page.evaluate("document.activeElement.tagName") == "SELECT"
    said = page.locator(".la-said").inner_text()
    assert "L40S" in said
    asked = {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}
    assert asked == {**ASKED, "goal": "tpot"}
    page.reload()
    page.get_by_role("region", name="Techniques alone").first.wait_for()
    assert page.get_by_label("Goal").input_value() == "tpot"
    assert page.locator(".la-said").inner_text() == said


def test_what_cannot_be_answered_is_said(watched: Any) -> None:
    page = watched.open("models/llava-1.5-7b.html?workload=video-60s")
    page.locator(".la-said", has_text="takes no video").wait_for()


def test_numbers_in_pages_are_those_of_the_command_line(watched: Any) -> None:
    draw = random.Random(1)  # noqa: S311
    values = [0, 0.125, 1.125, 2.5, 9.995, 999.5, 1e-7, *(10 ** draw.uniform(-7, 12) for _ in range(500))]
    page = watched.open("index.html")
    # Deferred scripts have run when a page has loaded; `wait_for_function` would need an `eval`, which pages forbid.
    assert page.evaluate("Boolean(window.lvlmAtlas?.numbers)")
    for name, shown in (("seconds", units.seconds), ("size", units.size), ("number", units.number)):
        told = page.evaluate(f"values => values.map(lvlmAtlas.numbers.{name})", values)
        assert told == [shown(value) for value in values]
    pairs = [(value, value * draw.uniform(0.01, 3)) for value in values] + [(9, 8), (17, 8)]
    gains = page.evaluate("pairs => pairs.map(([one, two]) => lvlmAtlas.numbers.gain(one, two))", pairs)
    assert gains == [units.gain(*pair).replace(units.NO_CHANGE, "1.00 ×") for pair in pairs]


def test_facets_narrow_the_list_to_what_their_query_finds(site: Any) -> None:
    page, where = site
    page.goto(f"{where}/techniques/index.html?training=none")
    listed = page.locator(".la-list tbody tr:visible")
    page.locator(".la-facets pre").wait_for()
    page.locator(".la-facets pre").evaluate("pre => pre.prepend(document.createElement('nav'))")  # a late copy button
    page.get_by_label("modality").select_option("video")
    page.get_by_label("year").select_option("2025")
    page.locator(".la-facets code", has_text="year:2025").wait_for()
    command = page.locator(".la-facets code").inner_text()
    assert command == 'lvlm-atlas query "training:none modality:video year:2025"'
    kb = PLANNER.kb
    expected = {kb.atlas.techniques[id_].name for id_ in kb.query(command.split('"')[1]).ids}
    assert {*listed.locator("td:first-child a").all_inner_texts()} == expected
    assert page.locator(".la-facets [role=status]").inner_text().startswith(f"{len(expected)} of ")
    assert parse_qs(urlsplit(page.url).query) == {"training": ["none"], "modality": ["video"], "year": ["2025"]}
    page.get_by_role("button", name="Show all").press("Enter")
    assert listed.count() == len(kb.atlas.techniques)
    assert not page.locator(".la-facets pre").is_visible()  # there is no query that asks for nothing


def test_a_comparison_has_fields_numbers_and_reasons_side_by_side(site: Any) -> None:
    page, where = site
    page.goto(f"{where}/tools/compare.html?techniques=fastv,kivi&device=l40s")
    fields = {cells[0]: cells[1:] for cells in rows(page, "Fields")}
    kb = PLANNER.kb
    assert fields["Code"] == [kb.atlas.techniques[id_].reference for id_ in ("fastv", "kivi")]
    plain, *alone = (PLANNER.estimate("qwen2.5-vl-7b", "l40s", "images-20", stack=s) for s in ((), "fastv", "kivi"))
    gains = {cells[0]: cells[1:] for cells in rows(page, "Predicted gains")}
    assert gains["Whole"] == [units.gain(plain.total_s, each.total_s) for each in alone]
    verdict = kb.relation("fastv", "kivi")
    assert page.locator(".la-compare h3 .la-badge").inner_text() == verdict.value
    assert all(edge.reason in page.locator(".la-compare").inner_text() for edge in verdict.edges)
    page.get_by_label("Technique 3").select_option("divprune")
    page.get_by_role("link", name="DivPrune").first.wait_for()
    assert parse_qs(urlsplit(page.url).query)["techniques"] == ["fastv,kivi,divprune"]
    assert page.locator(".la-compare h3 .la-badge").count() == 3


def test_a_stack_names_its_conflicts_and_shows_joint_beside_multiplied_gains(site: Any) -> None:
    page, where = site
    page.goto(f"{where}/tools/stack.html?techniques=fastv")
    page.get_by_label("KIVI").focus()
    page.keyboard.press("Space")
    page.locator(".la-said", has_text="1 known to work").wait_for()
    pair = PLANNER.interactions("fastv", "kivi", "qwen2.5-vl-7b", "h200", "images-20")
    shown = {cells[0]: cells[1:] for cells in rows(page, "Gains")}
    for figure, name in (("ttft", "First token"), ("tpot", "Per token"), ("total", "Whole"), ("memory", "Memory")):
        gain = pair.gain(figure)
        assert shown[name][-2:] == [
            units.gain(each, 1).replace(units.NO_CHANGE, "1.00 ×") for each in (gain.expected, gain.joint)
        ]
    page.get_by_label("PyramidDrop").check()
    page.locator(".la-said", has_text="1 conflicts").wait_for()
    reason = PLANNER.kb.relation("fastv", "pyramiddrop").edges[0].reason
    assert reason in page.locator(".la-stack .la-answer").inner_text()
    assert all(cells[-1] == "–" for cells in rows(page, "Gains"))


def test_a_pair_of_the_matrix_is_found_by_arrow_keys(site: Any) -> None:
    page, where = site
    page.goto(f"{where}/tools/pairs.html?techniques=fastv,kivi")
    page.locator(".la-pair .la-badge", has_text="works").wait_for()
    page.get_by_role("group", name="Matrix of pairs").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda url: "kivi" not in url)
    one, two = parse_qs(urlsplit(page.url).query)["techniques"][0].split(",")
    assert one == "fastv"
    page.locator(".la-pair .la-badge", has_text=PLANNER.kb.relation(one, two).value).wait_for()


def test_a_layer_colours_and_labels_the_matrix_by_the_gain_for_a_request(site: Any) -> None:
    page, where = site
    page.goto(f"{where}/matrix.html?layer=gain&device=l40s&goal=total")
    page.locator(".la-layered").first.wait_for()
    plain, now = (PLANNER.estimate("qwen2.5-vl-7b", "l40s", "images-20", stack=stack) for stack in ((), "fastv"))
    chip = page.locator("a.la-chip[href$='/fastv.html']").first
    assert chip.locator(".la-layer").inner_text() == units.gain(plain.total_s, now.total_s)
    page.get_by_label("Colour by").select_option("engines")
    page.locator("a.la-chip[href$='/fastv.html'] .la-layer").first.wait_for()
    shipped = sorted({each.engine for each in PLANNER.kb.atlas.techniques["fastv"].shipped_in})
    assert chip.locator(".la-layer").inner_text() == ", ".join(shipped)


def test_the_graph_shows_the_edges_of_one_technique_with_their_reasons(site: Any) -> None:
    page, where = site
    page.goto(f"{where}/tools/graph.html?technique=fastv&kind=composes-with")
    page.locator(".la-graph li").first.wait_for()
    kb = PLANNER.kb
    own = [edge for edge in kb.interactions("fastv") if edge.kind == "composes-with"]
    assert page.locator(".la-graph path.la-line-shape").count() == len(own)
    said = page.locator(".la-graph").inner_text()
    assert all(edge.reason in said for edge in own)
    page.get_by_label("Evidence").select_option("derived")
    page.locator("[role=status]", has_text="0 edges").wait_for()


def test_a_device_that_few_models_are_answered_for_says_so(watched: Any) -> None:
    page = watched.open("devices/b200-sxm.html")
    page.locator(".la-said", has_text="B200").wait_for()
    page.get_by_label("Model").select_option("llava-1.5-7b")
    page.locator(".la-said", has_text="the page answers for Qwen2.5-VL-7B alone").wait_for()


def test_a_command_can_be_run_in_the_page_where_the_site_holds_python(watched: Any) -> None:
    page = watched.open(f"index.html{ADDRESS}")
    page.locator(".la-answer .la-shown").first.wait_for()
    page.evaluate("lvlmAtlas.python = true")
    page.get_by_label("Goal").select_option("tpot")
    link = page.get_by_role("link", name="Run it in the page")
    link.wait_for()
    run = urlsplit(link.get_attribute("href"))
    assert run.path.endswith("/tools/ask.html")
    assert parse_qs(run.query)["run"] == [page.locator(".la-shown code").first.inner_text()]
