"""The roofline is valid, has its points where the engine puts them, and no label leaves it or covers another."""

from __future__ import annotations

import itertools
import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lvlm_atlas
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.estimates import REFERENCE
from lvlm_atlas.site.roofline_svg import Point, Roof, roofline, stages

SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]
SMALL, STRONG = 6.6, 8.4
"""Widths of a letter at 11.5 and, bold, at 13 pixels, as DejaVu Sans has them: a wide face."""


def parsed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)  # noqa: S314  our own


def box(text: ElementTree.Element) -> Box:
    strong = "la-strong" in text.attrib["class"]
    width = (STRONG if strong else SMALL) * len(text.text or "")
    x, y = float(text.attrib["x"]), float(text.attrib["y"])
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[text.get("text-anchor", "start")]
    return left, y - 10, left + width, y + 3


def meet(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def check(picture: ElementTree.Element, points: int) -> None:
    """Points are on the drawing, labels inside it, and those of points cover no other."""
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    circles = list(picture.iter(f"{SVG}circle"))
    assert len(circles) == points
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= width
        assert 0 <= float(circle.attrib["cy"]) <= height
    texts = list(picture.iter(f"{SVG}text"))
    for text in texts:
        left, top, right, bottom = box(text)
        assert left >= 0
        assert right <= width
        assert top >= 0
        assert bottom <= height
    names = [text for text in texts if "la-strong" in text.attrib["class"]]
    assert len(names) == points
    for one, two in itertools.combinations(names, 2):
        assert not meet(box(one), box(two)), (one.text, two.text)
    for name in names:
        left, top, _, _ = box(name)
        assert top >= roof_at(picture, left), name.text


def roof_at(picture: ElementTree.Element, x: float) -> float:
    """How high the roof is at a place, which rises from the left up to the ridge."""
    (path,) = (p.attrib["d"] for p in picture.iter(f"{SVG}path") if p.attrib["class"] == "la-roof")
    (x0, y0), (x1, y1) = (map(float, end.split()) for end in path.removeprefix("M").partition("H")[0].split("L"))
    return y1 if x >= x1 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def test_every_model_has_its_three_stages_on_the_roof(catalog: lvlm_atlas.KnowledgeBase) -> None:
    content = Content(catalog)
    from lvlm_atlas.site.models import reference_case

    for model in content.atlas.models:
        case = reference_case(content, model)
        if case is None:
            continue  # eight devices do not hold it, and its page says so
        check(parsed(stages(content.estimates.of(case), content.stage_classes, id_="x")), 3)


def test_every_device_has_the_reference_on_its_roof(catalog: lvlm_atlas.KnowledgeBase) -> None:
    from dataclasses import replace

    content = Content(catalog)
    for device in content.atlas.hardware:
        estimate = content.estimates.of(replace(REFERENCE, device=device))
        check(parsed(stages(estimate, content.stage_classes, id_="x")), 3)


def test_the_words_have_the_numbers(catalog: lvlm_atlas.KnowledgeBase) -> None:
    content = Content(catalog)
    picture = parsed(stages(content.estimates.of(REFERENCE), content.stage_classes, id_="x"))
    said = picture.find(f"{SVG}desc")
    assert said is not None
    assert said.text is not None
    assert "206 FLOP per byte" in said.text
    assert all(name in said.text for name in ("Encoding", "Prefilling", "Decoding"))


def test_axes_are_logarithmic_and_the_ridge_is_where_the_walls_meet() -> None:
    roof = Roof(1e15, 1e13, "bf16")
    points = [Point("a", 1, 1e13), Point("b", 10, 1e14), Point("c", 100, 1e15)]
    picture = parsed(roofline(roof, points, id_="x", title="T", desc="D"))
    at = sorted((float(c.attrib["cx"]), float(c.attrib["cy"])) for c in picture.iter(f"{SVG}circle"))
    assert at[1][0] - at[0][0] == pytest.approx(at[2][0] - at[1][0], abs=0.2)
    assert at[0][1] - at[1][1] == pytest.approx(at[1][1] - at[2][1], abs=0.2)
    (path,) = (p.attrib["d"] for p in picture.iter(f"{SVG}path") if p.attrib["class"] == "la-roof")
    corner = tuple(map(float, path.partition("L")[2].partition("H")[0].split()))
    assert corner == pytest.approx(at[2])


@settings(max_examples=60, deadline=None)
@given(
    st.floats(12.5, 15.7), st.floats(10.5, 13.5),
    st.lists(st.tuples(st.floats(-0.5, 4.5), st.floats(0.02, 1)), min_size=3, max_size=3),
)  # fmt: skip
def test_labels_stay_inside_wherever_the_points_lie(
    peak: float, bandwidth: float, at: list[tuple[float, float]]
) -> None:
    roof = Roof(10**peak, 10**bandwidth, "bf16")
    points = [
        Point(name, 10**x, share * min(10**x * roof.byte_s, roof.flop_s))
        for name, (x, share) in zip(("Encoding", "Prefilling", "Decoding"), at, strict=True)
    ]
    picture = parsed(roofline(roof, points, id_="x", title="T", desc="D"))
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    for text in picture.iter(f"{SVG}text"):
        left, top, right, bottom = box(text)
        assert left >= 0, text.text
        assert right <= width, text.text
        assert top >= 0, text.text
        assert bottom <= height, text.text


def test_a_stage_without_work_is_left_out() -> None:
    picture = parsed(roofline(Roof(1e15, 1e12, "bf16"), [Point("a", 0, 0)], id_="x", title="T", desc="D"))
    assert not list(picture.iter(f"{SVG}circle"))
    assert math.isfinite(float(picture.attrib["viewBox"].split()[2]))
