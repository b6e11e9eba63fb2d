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
    names = Planner().kb.atlas.techniques
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
    planner = Planner()
    plain = planner.estimate("qwen2.5-vl-7b", "l40s", "images-20")
    assert len(shown) == 10
    for technique in planner.kb.atlas.techniques.values():
        if technique.name in shown:
            now = planner.estimate("qwen2.5-vl-7b", "l40s", "images-20", stack=technique.id)
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
    page.wait_for_function("window.lvlmAtlas?.numbers")
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
    page.get_by_label("modality").select_option("video")
    page.get_by_label("year").select_option("2025")
    command = page.locator(".la-facets code").inner_text()
    assert command == 'lvlm-atlas query "training:none modality:video year:2025"'
    kb = Planner().kb
    expected = {kb.atlas.techniques[id_].name for id_ in kb.query(command.split('"')[1]).ids}
    assert {row.locator("a").first.inner_text() for row in listed.all()} == expected
    assert page.locator(".la-facets [role=status]").inner_text().startswith(f"{len(expected)} of ")
    assert parse_qs(urlsplit(page.url).query) == {"training": ["none"], "modality": ["video"], "year": ["2025"]}
    page.get_by_role("button", name="Show all").press("Enter")
    assert listed.count() == len(kb.atlas.techniques)
