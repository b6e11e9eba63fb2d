"""What runs counted, drawn: a step for each layer, on one scale with the run without techniques."""

from __future__ import annotations

import re

from lvlm_atlas.schema.measurement import Counts, SmokeResult
from lvlm_atlas.site.counts_svg import Panel, counts, counts_picture


def stairs(drawn: str) -> list[list[float]]:
    """The heights of each step line, from the top."""
    paths = re.findall(r'<path d="([^"]*)" class="la-(?:kept|ridge)', drawn)
    return [[float(height) for height in re.findall(r"[ML][\d.]+ ([\d.]+)H", path)] for path in paths]


def test_lines_are_on_one_scale_and_more_is_higher() -> None:
    plain, pruned = stairs(str(counts([Panel("tokens", "layer", (40, 40, 10), (40, 40, 40))], id_="p", title="t")))
    assert plain[0] == plain[1] == plain[2] == pruned[0] == pruned[1] < pruned[2]


def test_lines_of_different_lengths_share_their_steps() -> None:
    drawn = str(counts([Panel("entries", "round", (1, 2), (1, 2, 3, 4))], id_="p", title="t"))
    assert [len(line) for line in stairs(drawn)] == [4, 2]
    assert "round 0 to 3" in drawn


def test_what_was_not_counted_has_no_panel() -> None:
    drawn = str(counts([Panel("a", "x", (1.0,)), Panel("b", "x", ())], id_="p", title="t"))
    assert drawn.count("la-axis") == 1
    assert "1 against 0" in drawn


def test_a_file_of_its_own_brings_its_style() -> None:
    assert "<style>" in str(counts([Panel("a", "x", (1.0,))], id_="p", title="t", style=True))


def test_a_record_shows_the_counts_that_differ_over_layers_and_over_rounds() -> None:
    plain = Counts(
        encoder_tokens=(16, 16), llm_tokens=(24, 24), score_entries=(1, 1), kv_entries=(24, 24), kv_byte=1,
        kv_settled_entries=(48, 50, 52, 54), target_passes=3, output_tokens=4,
    )  # fmt: skip
    drafted = plain.model_copy(
        update={"kv_settled_entries": (48, 52, 54), "accepted_lengths": (1, 0), "target_passes": 2}
    )
    result = SmokeResult(technique="medusa", setting={}, passed=(), counts=drafted, baseline=plain)
    drawn = str(counts_picture(result, "p"))
    assert ("cache entries of all layers while answering" in drawn, "drafted tokens accepted" in drawn) == (True, True)
    assert "tokens that enter" not in drawn
    assert not counts_picture(result.model_copy(update={"counts": plain}), "p")
