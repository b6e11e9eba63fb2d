"""Bars share one scale, stay inside the drawing and say in words what they show."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from lvlm_atlas.site.bars import Bar, Part, bars

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*rows: Bar) -> ElementTree.Element:
    return ElementTree.fromstring(bars(rows, id_="x", title="T", desc="D"))  # noqa: S314  our own


def widths(picture: ElementTree.Element) -> list[float]:
    return [float(rect.attrib["width"]) for rect in picture.iter(f"{SVG}rect")]


def test_lengths_are_in_proportion() -> None:
    one, two, three = widths(drawn(Bar("a", (Part(4),), "4"), Bar("b", (Part(2), Part(1)), "3")))
    assert one == pytest.approx(2 * two, abs=0.2)
    assert two == pytest.approx(2 * three, abs=0.2)


def test_what_is_there_can_be_seen_and_what_is_not_takes_no_room() -> None:
    small, none, _ = widths(drawn(Bar("a", (Part(1e-9),), ""), Bar("b", (Part(0),), ""), Bar("c", (Part(1),), "")))
    assert (small, none) == (1, 0)


def test_bars_of_nothing_are_drawn() -> None:
    assert widths(drawn(Bar("a", (Part(0),), "0 s"))) == [0]


def test_names_and_texts_stay_inside() -> None:
    long = Bar("a name that is rather long", (Part(3),), "a text that is rather long, too")
    picture = drawn(long, Bar("b", (Part(1),), "1"))
    right = float(picture.attrib["viewBox"].split()[2])
    for text in picture.iter(f"{SVG}text"):
        width, at = 7 * len(text.text or ""), float(text.attrib["x"])
        start = at - width if text.get("text-anchor") == "end" else at
        assert start >= 0
        assert start + width <= right


def test_odd_names_are_escaped() -> None:
    picture = drawn(Bar("a<b & c", (Part(1, title='"<'),), "1 < 2", href="x.html?a&b"))
    assert [text.text for text in picture.iter(f"{SVG}text")] == ["a<b & c", "1 < 2"]
    assert picture.attrib["role"] == "group"
