"""The site as a reader meets it: by mouse, by keyboard, on a phone, in the dark, with the network cut."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lvlm_atlas import load

PHONE = {"viewport": {"width": 390, "height": 844}}
DARK = {"color_scheme": "dark"}
LONGEST_PX = 4_500
"""What a reader scrolls through at most, where all folds are closed."""
EVERY = 6
"""Of the techniques' pages every so many-th is looked at."""
KINDS = [
    "index.html", "matrix.html", "techniques/index.html", "techniques/fastv.html", "techniques/specvlm-ji.html",
    "stages/index.html", "stages/prefilling.html", "bounds/index.html", "bounds/compute.html", "families/index.html",
    "families/token-compression/index.html", "families/token-compression/attention-guided.html",
    "families/sparse-attention/index.html", "papers/index.html", "papers/chen2024fastv.html", "glossary.html",
    "models/index.html", "models/qwen2.5-vl-7b.html", "devices/index.html", "devices/h200-sxm.html", "workloads.html",
    "guide/plan.html", "guide/estimate.html", "tags.html", "guide/query.html", "guide/contribute.html",
    "guide/about.html",
]  # fmt: skip


def test_from_home_over_the_matrix_to_a_technique(watched: Any) -> None:
    page = watched.open("index.html")
    page.get_by_role("link", name="See the matrix").click()
    page.locator(".la-matrix").get_by_role("link", name="FastV", exact=True).click()
    page.wait_for_url("**/techniques/fastv.html")
    assert page.locator("h1").inner_text().startswith("FastV")
    page.locator(".la-lines").first.click()
    line = page.locator(".la-source a:target")
    line.wait_for(state="attached")  # it is an anchor without a box
    assert line.count() == 1


def found(page: Any, typed: str) -> list[str]:
    """Where the results of a search lead, best first, in a dialog that is open."""
    page.locator(".la-find__input").fill(typed)
    page.locator(".la-find__status", has_text="result").or_(page.locator(".la-find__status", has_text="“")).wait_for()
    return page.locator(".la-find__link").evaluate_all("links => links.map(link => link.href)")


FIRST = {
    "FastV": "techniques/fastv.html", "fastv": "techniques/fastv.html", "fast-v": "techniques/fastv.html",
    "fast v": "techniques/fastv.html", "pyramid drop": "techniques/pyramiddrop.html",
    "An Image is Worth 1/2 Tokens After Layer 2": "techniques/fastv.html", "2403.06764": "techniques/fastv.html",
    "qwen2.5-vl-7b": "models/qwen2.5-vl-7b.html", "H200": "devices/h200-sxm.html",
    "token pruning": "glossary.html#mechanism-token-pruning", "fstv": "techniques/fastv.html",
}  # fmt: skip
"""What a reader types, and where the first result leads."""


def test_search_finds_names_however_typed_and_slips_by_the_nearest(watched: Any) -> None:
    page = watched.open("techniques/kivi.html")
    page.keyboard.press("/")
    assert {typed: found(page, typed)[0].removeprefix(f"{watched.address}/") for typed in FIRST} == FIRST
    british, american = found(page, "KV cache quantisation"), found(page, "kv cache quantization")
    assert british == american
    assert len([where for where in british if "/techniques/" in where]) > 3
    assert found(page, "zzzzqqqqxxxx") == []
    assert "Nothing here" in page.locator(".la-find__status").inner_text()


def test_search_works_by_keyboard_and_leads_to_the_page(watched: Any) -> None:
    page = watched.open("index.html")
    page.keyboard.press("/")
    found(page, "kivi")
    page.keyboard.press("ArrowDown")
    assert "kivi.html" in page.evaluate("document.activeElement.href")
    page.keyboard.press("Escape")
    assert not page.locator("dialog.la-find").is_visible()
    page.keyboard.press("/")
    found(page, "kivi")
    page.keyboard.press("Enter")
    page.wait_for_url("**/techniques/kivi.html")


def test_a_folder_without_a_server_is_searched_too(browser: Any, folder: Any) -> None:
    page = browser.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
    page.goto(f"file://{folder}/techniques/fastv.html")
    page.keyboard.press("/")
    assert found(page, "kivi")[0] == f"file://{folder}/techniques/kivi.html"
    assert not troubles
    page.close()


def test_an_address_that_leads_nowhere_names_the_nearest(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/techniques/fastvv.html")
    near = page.locator("[data-la-lost] a").first
    near.wait_for()
    assert near.get_attribute("href") == f"{address}/techniques/fastv.html"
    page.close()


def test_what_scrolls_sideways_can_be_reached_by_keyboard_and_has_a_name(watched: Any) -> None:
    page = watched.open("models/index.html")
    page.set_viewport_size({"width": 390, "height": 800})
    box = page.locator(".md-typeset__scrollwrap[tabindex]").first
    box.wait_for()  # `wait_for_function` would need an `eval`, which the pages forbid
    assert (box.get_attribute("role"), box.get_attribute("aria-label")) == ("region", "Table: All models")
    page.set_viewport_size({"width": 2600, "height": 800})
    page.wait_for_timeout(200)
    right = "all => all.every(box => (box.scrollWidth > box.clientWidth + 1) === box.hasAttribute('tabindex'))"
    assert page.locator(".md-typeset__scrollwrap").evaluate_all(right)


def test_paper_is_white_whatever_the_scheme_and_no_table_is_cut(browser: Any, address: str) -> None:
    page = browser.new_page(color_scheme="dark", viewport={"width": 700, "height": 900})
    page.goto(f"{address}/techniques/fastv.html")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
    assert page.evaluate("getComputedStyle(document.querySelector('article p')).color") == "rgb(0, 0, 0)"
    wide = "all => all.filter(one => one.scrollWidth > document.documentElement.clientWidth).length"
    assert page.locator("article table").evaluate_all(wide) == 0
    page.close()


@pytest.mark.parametrize("watched", [PHONE, PHONE | DARK], indirect=True, ids=["light", "dark"])
def test_a_phone_never_scrolls_a_page_sideways(watched: Any) -> None:
    wide = {}
    for kind in KINDS:
        page = watched.open(kind)
        width = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        if width > 390:
            wide[kind] = width
    assert not wide


@pytest.mark.parametrize("watched", [{}, DARK], indirect=True, ids=["light", "dark"])
def test_the_scheme_follows_the_system_and_can_be_switched(watched: Any) -> None:
    page = watched.open("techniques/fastv.html")
    scheme = "document.body.getAttribute('data-md-color-scheme')"
    ground = "getComputedStyle(document.querySelector('.la-node')).fill"
    before, drawn = page.evaluate(scheme), page.evaluate(ground)
    page.locator(".md-header__option label:not([hidden])").first.click()
    assert {before, page.evaluate(scheme)} == {"default", "slate"}
    assert page.evaluate(ground) != drawn


def test_a_drawing_is_saved_as_a_file_that_needs_no_style_sheet(watched: Any, tmp_path: Path) -> None:
    page = watched.open("models/qwen2.5-vl-7b.html")
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save as SVG: Roofline").click()
    assert saved.value.suggested_filename.endswith(".svg")
    saved.value.save_as(tmp_path / "roof.svg")
    drawn = ElementTree.parse(tmp_path / "roof.svg").getroot()  # noqa: S314  our own
    roof = drawn.find(".//{*}path[@stroke-width]")
    assert roof is not None
    assert roof.attrib["stroke"].startswith(("rgb", "color"))
    assert not any("class" in element.attrib for element in drawn.iter())


def test_the_neighbourhood_can_be_walked_by_keyboard(watched: Any) -> None:
    page = watched.open("techniques/fastv.html")
    page.locator("details.la-drawn > summary").press("Enter")
    nodes = page.locator("figure.la-neighbours svg a")
    assert nodes.count() > 2
    nodes.first.focus()
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.getAttribute('href')")
    assert focused == nodes.nth(1).get_attribute("href")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/techniques/{focused}")


def test_all_that_is_drawn_is_in_the_table_and_the_rest_is_counted(watched: Any) -> None:
    page = watched.open("techniques/fastv.html")
    links = "links => links.map(link => link.href.baseVal ?? link.getAttribute('href'))"
    figure = page.locator("figure.la-neighbours svg")
    drawn = figure.locator("a").evaluate_all(links)
    rows = page.locator("tr:has(.la-verdict) td:nth-child(2) a")
    listed = rows.evaluate_all(links)
    assert len(listed) == len(set(listed))  # one row a neighbour
    assert set(drawn) <= set(listed)
    left_out = len(set(listed) - set(drawn))
    assert left_out == 0 or f"and {left_out} more in the table" in (figure.text_content() or "")


def test_numbers_are_tabs_for_the_keyboard_and_open_by_their_address(watched: Any) -> None:
    page = watched.open("techniques/fastv.html#measured")
    assert page.locator("#measured").is_visible()
    tabs = page.get_by_role("tab")
    tabs.nth(2).focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#reported").is_visible()
    assert not page.locator("#measured").is_visible()
    assert tabs.evaluate_all("all => all.map(tab => tab.ariaSelected)") == ["true", "false", "false"]


def test_one_of_the_two_shapes_of_the_pipeline_is_shown(watched: Any) -> None:
    page = watched.open("index.html")
    for width, shape in ((1280, "wide"), (390, "tall")):
        page.set_viewport_size({"width": width, "height": 800})
        shown = [name for name in ("wide", "tall") if page.locator(f"figure.la-{name}").is_visible()]
        assert shown == [shape]


def test_pages_can_be_read_without_scripts_and_with_the_network_cut(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/techniques/fastv.html")
    context.set_offline(True)
    assert page.locator(".la-facts dd").first.is_visible()
    assert page.locator("#measured").is_visible()  # tabs are sections one below the other
    page.locator("details.la-drawn > summary").click()
    assert page.locator("figure.la-neighbours svg a").first.is_visible()
    context.close()


@pytest.mark.parametrize("watched", [{"viewport": {"width": 1440, "height": 1000}}], indirect=True)
def test_no_page_of_a_technique_is_longer_than_a_few_screens(watched: Any, folder: Path) -> None:
    longest = {}
    for file in sorted((folder / "techniques").glob("*.html"))[::EVERY]:
        if file.stem != "index":
            page = watched.open(f"techniques/{file.name}")
            longest[file.stem] = page.evaluate("document.documentElement.scrollHeight")
    assert longest
    assert {name: px for name, px in longest.items() if px > LONGEST_PX} == {}


def test_a_table_sorts_by_the_head_that_is_pressed(watched: Any, checkout: Path) -> None:
    largest = max(load(checkout).atlas.models.values(), key=lambda model: model.params.total)
    page = watched.open("models/index.html")
    names = page.locator(".la-sortable tbody td:first-child")
    first = names.first.inner_text()
    head = page.get_by_role("button", name="Parameters")
    head.click()
    assert names.first.inner_text() == first  # smallest first, as it came
    head.click()
    assert names.first.inner_text() == largest.name
    assert page.locator("th[aria-sort=descending]").count() == 1
    page.get_by_role("button", name="Whole").press("Enter")
    assert names.first.inner_text() == "DeepSeek-VL2-Tiny"  # 134 ms come before 1.07 s


@pytest.mark.parametrize("watched", [{}, DARK], indirect=True, ids=["light", "dark"])
def test_the_labels_of_a_roofline_stand_clear_of_each_other(watched: Any) -> None:
    page = watched.open("models/qwen2.5-vl-7b.html")
    boxes = page.locator(".la-roofline .la-strong").evaluate_all("all => all.map(one => one.getBoundingClientRect())")
    assert len(boxes) == 3
    for one, two in itertools.combinations(boxes, 2):
        apart = one["right"] <= two["left"] or two["right"] <= one["left"]
        assert apart or one["bottom"] <= two["top"] + 2 or two["bottom"] <= one["top"] + 2
