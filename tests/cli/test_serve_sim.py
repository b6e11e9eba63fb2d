"""`serve-sim`: a row for each server and load, and one clear error for what is none."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

SERVER = ("serve-sim", "-m", "qwen2.5-vl-7b", "-n", "40")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def loads(run, *arguments: str) -> list[dict]:
    return json.loads(run(*SERVER, *arguments, "-f", "json").out)["loads"]


def test_a_row_stands_for_each_policy_stack_and_rate(run) -> None:
    rows = loads(
        run, "--device", "h100-sxm:4", "--policy", "monolithic", "--policy", "epd:1,1,2", "-s", "none",
        "-s", "fastv+kivi", "--rate", "2..8,9",
    )  # fmt: skip
    assert [(row["policy"], len(row["stack"]), row["rate"]) for row in rows] == [
        (policy, techniques, rate)
        for policy in ("monolithic:4", "epd:1,1,2")
        for techniques in (0, 2)
        for rate in (2, 4, 8, 9)
    ]
    plain, thinned = rows[3], rows[7]
    assert thinned["ttft_s"]["p50"] < plain["ttft_s"]["p50"]
    assert thinned["pools"][0]["cache_peak"] < plain["pools"][0]["cache_peak"]


def test_the_table_fits_narrow_terminals_and_says_what_is_overrun(run, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ("60", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        shown = run(*SERVER[:3], "-n", "200", "-d", "l4", "-w", "images-20", "--rate", "5")
        assert max(map(len, shown.out.splitlines())) <= int(columns)
        assert "Overrun, so that waits grow" in shown.out
        assert "Predicted, not measured" in shown.out


def test_goodput_counts_what_keeps_all_limits_and_its_cost_follows(run) -> None:
    (row,) = loads(run, "-d", "h100-sxm:2", "--rate", "20", "--slo", "ttft=230ms", "--slo", "tpot=1", "--price", "2")
    assert 0 < row["attainment"] < 1
    assert row["goodput_s"] == pytest.approx(row["attainment"] * row["requests_s"])
    assert row["cost_usd"] == pytest.approx(2 * 2 / 3600 / row["goodput_s"])
    assert row["energy_j_token"] == pytest.approx(2 * 700 / row["tokens_s"])


def test_the_capacity_is_the_highest_rate_within_the_limits(run) -> None:
    asked = ("-d", "h100-sxm", "--slo", "ttft=0.3", "-n", "150")
    (found,) = loads(run, *asked, "--capacity")
    rate = found["rate"]
    above, below = (loads(run, *asked, "--rate", str(rate * factor))[0]["attainment"] for factor in (1.03, 0.97))
    assert above < 0.9 <= below
    nothing = run(*SERVER, "-d", "h100-sxm", "--slo", "ttft=1us", "--capacity")
    assert (nothing.code, "no row keeps the limits for 90 %" in nothing.err) == (1, True)


def test_a_trace_comes_as_it_was_recorded_and_a_picture_shows_it(run, tmp_path: Path) -> None:
    trace, picture = tmp_path / "trace.jsonl", tmp_path / "run.svg"
    lines = [{"at_s": at, "text": 30, "output": 8, "images": ["640x480"]} for at in (0, 0.1, 5)]
    trace.write_text("\n".join(map(json.dumps, lines)))
    (row,) = loads(run, "-d", "h100-sxm:3", "--policy", "epd", "--trace", str(trace), "--timeline", str(picture))
    assert (row["rate"], row["requests"]) == (None, 3)
    assert row["duration_s"] == pytest.approx(5.1, abs=0.1)
    drawn = ElementTree.parse(picture).getroot()  # noqa: S314
    words = {each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"encode 1", "prefill 1", "decode 1", "waits for the first token"} <= words


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-d", "h100-sxm:0"), "--hardware h100-sxm:0: no device; write such as h100-sxm:8"),
        (("-d", "h100-sxm:3", "--tp", "2"), "--policy monolithic: 3 devices make no instances of 2"),
        (("-d", "h100-sxm", "--pp", "2"), "--pp: an instance of a simulated server"),
        (("-d", "h100-sxm", "--rate", "8..2"), "--rate 8..2: '8..2' are no requests a second"),
        (("-d", "h100-sxm", "--rate", "x"), "'x' are no requests a second; write 4, 1,2,4 or 1..32"),
        (("-d", "h100-sxm", "-w", "images-20@x"), "'x' is no share; write such as images-20@0.2"),
        (("-d", "h100-sxm", "-w", "images-20@-1"), "the share of images-20 is -1.0; give a number above 0"),
        (("-d", "h100-sxm", "--slo", "memory=3"), "--slo memory: a server's requests have no such limit"),
        (("-d", "h100-sxm", "--capacity"), "give some, such as --slo ttft=1"),
        (("-d", "h100-sxm", "--capacity", "--slo", "ttft=1", "--rate", "3"), "--capacity finds the rate; leave"),
        (("-d", "h100-sxm", "--trace", "nowhere.jsonl"), "cannot read or write nowhere.jsonl"),
        (("-d", "h100-sxm", "--burstiness", "-1"), "burstiness is -1.0; give a number from 0 (even)"),
        (("-d", "l4", "-w", "single-image-chat:text=900000"), "of cache, and an instance of pool all stages has"),
    ],
)
def test_what_is_none_is_refused_with_the_repair(run, arguments: tuple[str, ...], said: str) -> None:
    refused = run(*SERVER, *arguments)
    assert refused.code in (1, 2)
    assert said in refused.err
    assert len(refused.err.strip().splitlines()) == 1
