"""`lvlm-atlas calibrate`: runtimes held against published times, laws of rows, and one clear line for bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lvlm_atlas.atlas.root import data_root

ROW = {
    "op": "cache", "dtype": "bfloat16", "shape": {"keys": 1}, "flop": 1e6, "byte": 1e6, "time_s": 1e-5, "spread": 0.0,
    "runs": 5,
}  # fmt: skip
TIMINGS = data_root() / "catalog" / "timings"


def test_runtimes_are_held_against_the_times_of_a_file(run: Any) -> None:
    said = run("calibrate", "--judge", TIMINGS / "qwen2.5-72b-two-h100.yaml", "--format", "json")
    assert said.code == 0
    one, together = json.loads(said.out)
    assert one["runtime"] == "vllm-0.7"
    assert one["points"] == 5
    assert one["below_ideal"] == 0
    assert 0 <= one["median_error"] < 0.1
    assert together["runtime"] == "all"
    assert said.err.count("not judged") == 5  # times to the first token that a prefix cache may have shortened


@pytest.mark.parametrize("listing", ["table", "csv", "jsonl", "md", "ids"])
@pytest.mark.parametrize("more", [(), ("--all",)])
def test_judgements_are_printed_in_every_form(run: Any, listing: str, more: tuple[str, ...]) -> None:
    said = run("calibrate", "--judge", TIMINGS / "gpustack-qwen3.5-35b-vllm.yaml", "--format", listing, *more)
    assert said.code == 0
    assert said.err == ""
    assert "vllm" in said.out


def test_a_time_below_the_bound_is_named(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "points.yaml"
    file.write_text(
        "points:\n  - {model: qwen2.5-vl-7b, hardware: a100, args: [--text, '64'], metric: tpot_s, value: 0.001, "
        "runtime: vllm}\n",
        encoding="utf-8",
    )
    said = run("calibrate", "--judge", file, "--all")
    assert said.code == 1
    assert "below the bound" in said.err


def test_laws_are_derived_from_rows_and_held_against_the_peaks(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{**ROW, "byte": n * 1e8, "time_s": n * 1e8 / 1e12 + 5e-6} for n in (0.01, 1, 2, 4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"op": "ca', encoding="utf-8")
    said = run("calibrate", "--fit", file, "--hardware", "a100", "--format", "json")
    assert said.code == 0
    (law,) = json.loads(said.out)
    assert law["byte_s"] == pytest.approx(1e12, rel=0.02)
    assert law["of peak bandwidth"] == "49 %"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--judge", "nowhere.yaml"), "nowhere.yaml cannot be read"),
        (("--refit", "vlm"), "did you mean 'vllm'"),
        (("--refit", "lmdeploy"), "no timing"),
        (("--judge", "a", "--refit", "vllm"), "give one of them"),
        (("--fit", "nowhere.jsonl"), "nowhere.jsonl cannot be read"),
    ],
)
def test_bad_input_gets_one_line(run: Any, arguments: tuple[str, ...], words: str) -> None:
    said = run("calibrate", *arguments)
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1


def test_a_row_with_faults_is_told_by_its_line(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**ROW, "time_s": -1}) + "\n" + json.dumps(ROW) + "\n", encoding="utf-8")
    said = run("calibrate", "--fit", file)
    assert said.code == 2
    assert "rows.jsonl:1: time_s" in said.err


def test_estimates_name_the_runtime_and_how_sure_they_are(run: Any) -> None:
    said = run("estimate", "-m", "qwen2.5-vl-7b", "-d", "a100", "--runtime", "vllm", "--format", "json")
    data = json.loads(said.out)
    assert (data["runtime"], data["efficiency"]) == ("vllm", None)
    low, high = data["band"]["ttft_s"]
    assert low < data["ttft_s"] < high
    assert high - data["ttft_s"] == pytest.approx(data["residual"] * data["ttft_s"])
    table = run("estimate", "-m", "qwen2.5-vl-7b", "-d", "a100", "--runtime", "vllm").out
    assert "vLLM" in table.splitlines()[0]
    assert "are within ±" in " ".join(table.split())


def test_a_runtime_and_a_preset_exclude_each_other(run: Any) -> None:
    said = run("estimate", "-m", "qwen2.5-vl-7b", "-d", "a100", "--runtime", "vllm", "--efficiency", "ideal")
    assert said.code == 2
    assert "both given" in said.err


def test_runtimes_are_listed_and_shown(run: Any) -> None:
    out = run("runtimes").out
    for word in ("vllm", "transformers", "as sglang"):
        assert word in out
    shown = run("show", "vllm-0.7").out
    assert "megapixel_ms" in shown
