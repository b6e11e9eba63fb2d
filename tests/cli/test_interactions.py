"""`lvlm-atlas interactions`: both gains, what they make together, and why."""

from __future__ import annotations

import json
from typing import Any

ASKED = ("--model", "qwen2.5-vl-7b", "--hardware", "h200", "--workload", "images-20")


def test_a_pair_fits_80_columns_and_says_why(run: Any) -> None:
    said = run("interactions", "fastv", "divprune", *ASKED)
    assert (said.code, said.err) == (0, "")
    assert max(map(len, said.out.splitlines())) <= 80
    assert "Together they buy less than the product of both." in said.out
    assert "prefilling is" in said.out
    assert "Predicted, not measured" in said.out


def test_the_json_has_all_figures_of_the_pair(run: Any) -> None:
    data = json.loads(run("interactions", "fastv:keep_ratio=0.25", "kivi", *ASKED, "-f", "json").out)
    assert data["techniques"] == ["fastv:keep_ratio=0.25", "kivi"]
    assert {"ttft", "tpot", "total", "memory", "encoding", "prefilling", "decoding"} == {
        each["figure"] for each in data["gains"]
    }
    for each in data["gains"]:
        assert abs(each["ratio"] - each["joint"] / (each["first"] * each["second"])) < 1e-9


def test_csv_and_markdown_have_the_figures(run: Any) -> None:
    assert run("interactions", "fastv", "kivi", *ASKED, "-f", "csv").out.startswith("figure,first,second,joint")
    assert "| ttft |" in run("interactions", "fastv", "kivi", *ASKED, "-f", "md").out


def test_a_conflict_is_its_line(run: Any) -> None:
    said = run("interactions", "look-m", "xattention", *ASKED)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "look-m and xattention cannot share a stack" in said.err


def test_a_technique_that_the_model_cannot_run_is_one_line(run: Any) -> None:
    for one, words in (("visionzip", "needs `cls-token`"), ("specvlm-ji", "is for videos"), ("fastv", "twice")):
        said = run("interactions", one, "fastv", *ASKED)
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert words in said.err


def test_without_a_device_it_is_the_one_of_the_predicted_edges(run: Any) -> None:
    said = run("interactions", "fastv", "kivi", "--model", "qwen2.5-vl-7b", "--workload", "images-20")
    assert said.code == 0
    assert "NVIDIA H200" in said.out
