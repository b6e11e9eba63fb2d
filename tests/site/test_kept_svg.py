"""Scores against vision tokens kept: every number is drawn where it belongs, and no name covers another."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.graph.results import ReportedResult, grouped, results
from lvlm_atlas.site.kept_svg import LEAST, kept_plot


def row(technique: str, kept: float | None, value: float, paper: str = "doe2025") -> ReportedResult:
    return ReportedResult(
        technique=technique, kind="benchmark", measure="pope", model="llava-1.5-7b", setting={}, tokens_kept=kept,
        share_kept=None, device=None, data=None, value=value, qualifier=None, unit="%", baseline=86.0,
        percent_of_baseline=None, better="higher", paper=paper, place="table 1", note=None,
    )  # fmt: skip


ROWS = [row(name, kept, value + kept / 64) for value, name in enumerate("abc", start=70) for kept in (64, 128, 192)]


def test_fewer_techniques_than_make_a_comparison_are_not_drawn() -> None:
    assert kept_plot(ROWS, str, id_="p")
    assert kept_plot([each for each in ROWS if each.technique != "c"], str, id_="p") is None
    assert kept_plot([each for each in ROWS if each.tokens_kept == 64], str, id_="p") is None


def test_more_tokens_lie_further_right_and_higher_scores_higher_up() -> None:
    drawn = str(kept_plot(ROWS, str, id_="p"))
    points = {
        re.search(r"(\w): ([\d.]+) % with (\d+)", said).groups(): (float(x), float(y))  # type: ignore[union-attr]
        for x, y, said in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*><title>([^<]*)', drawn)
    }
    assert len(points) == len(ROWS)
    for one, two in pairwise(sorted(points, key=lambda key: int(key[2]))):
        assert points[one][0] <= points[two][0]
    by_score = sorted(points, key=lambda key: float(key[1]))
    assert all(points[one][1] >= points[two][1] for one, two in pairwise(by_score))


def test_numbers_that_do_not_say_what_is_kept_are_counted_as_left_out() -> None:
    assert "1 of them do not say how many" in str(kept_plot([*ROWS, row("d", None, 60)], str, id_="p"))


def test_a_technique_of_two_sources_has_two_lines_that_are_told_apart() -> None:
    drawn = str(kept_plot([*ROWS, row("a", 64, 50, "roe2026"), row("a", 128, 51, "roe2026")], str, id_="p"))
    assert "a (roe2026)" in drawn
    assert "a (doe2025)" in drawn
    assert "b (" not in drawn


@pytest.mark.catalog
def test_no_name_covers_another(checkout: Path) -> None:
    atlas = load(checkout).atlas
    drawn = [
        str(plot)
        for group in grouped(results(atlas, list(atlas.techniques.values())))
        if group[0].kind == "benchmark" and (plot := kept_plot(group, lambda id_: atlas.techniques[id_].name, id_="p"))
    ]
    assert len(drawn) > LEAST
    for plot in drawn:
        names = [float(y) for y in re.findall(r'<text x="401" y="([\d.]+)"', plot)]
        assert len(names) >= LEAST
        assert all(two - one >= 14.9 for one, two in pairwise(sorted(names)))
        height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', plot).group(1))  # type: ignore[union-attr]
        assert max(names) < height
