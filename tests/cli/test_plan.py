"""`lvlm-atlas plan`: pages that fit a terminal, JSON with a fixed shape, and faults in one line."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest

from lvlm_atlas import load
from lvlm_atlas.planner.planner import Planner

ASKED = ("plan", "--model", "qwen2.5-vl-7b", "--hardware", "h200", "--workload", "images-20", "--goal", "ttft")


def test_a_plan_fits_80_columns_and_says_that_it_is_predicted(run: Any) -> None:
    said = run(*ASKED, "--slo", "tpot=0.006")
    assert (said.code, said.err) == (0, "")
    assert max(map(len, said.out.splitlines())) <= 80
    assert "Predicted, not measured" in said.out
    assert "Searched, and lost:" in said.out
    assert re.search(r"Never in one stack:\n- [\w-]+ × [\w-]+: ", said.out)
    assert "below its limit" in said.out


def test_the_json_has_each_stacks_gains_pairs_reports_and_limits(run: Any) -> None:
    data = json.loads(run(*ASKED, "--slo", "ttft=5", "--slo", "tpot=0.1", "-f", "json").out)
    assert data["format"] == "lvlm-atlas-plan/2"
    assert data["evidence"] == "predicted"
    assert data["baseline"]["stack"] == []
    assert data["searched"] > len(data["front"]) > 0
    ttft = [each["ttft_s"] for each in data["front"]]
    assert ttft == sorted(ttft)
    for each in data["front"]:
        assert {"encoding", "prefilling", "decoding"} == {*each["stages"]}
        assert each["gain"]["ttft"] == pytest.approx(data["baseline"]["ttft_s"] / each["ttft_s"])
        assert len(each["pairs"]) == len(each["stack"]) * (len(each["stack"]) - 1) / 2
        assert {pair["verdict"] for pair in each["pairs"]} <= {"works", "unknown"}
        assert [limit["metric"] for limit in each["limits"]] == ["ttft", "tpot"]
        assert all(limit["met"] for limit in each["limits"])
    assert {"left_out", "conflicts", "unused", "runners_up", "assumptions"} <= {*data}


def test_csv_and_markdown_have_a_row_for_each_stack(run: Any) -> None:
    front = json.loads(run(*ASKED, "-f", "json").out)["front"]
    rows = list(csv.DictReader(io.StringIO(run(*ASKED, "-f", "csv").out)))
    assert [row["stack"] for row in rows] == ["", *(" + ".join(each["stack"]) for each in front)]
    lines = run(*ASKED, "-f", "md").out.splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(front) + 3


def test_techniques_can_be_asked_for_kept_out_and_set(run: Any) -> None:
    data = json.loads(
        run(*ASKED, "--require", "fastv", "--exclude", "paper:alvar2025divprune", "--try",
            "fastv:keep_ratio=0.25", "--max", 2, "-f", "json").out
    )  # fmt: skip
    stacks = [each["stack"] for each in data["front"]]
    assert stacks
    assert all("fastv:keep_ratio=0.25" in stack and len(stack) <= 2 for stack in stacks)
    assert {"what": "divprune", "kind": "left-out", "why": "--exclude finds it"} in data["left_out"]


def test_the_least_risk_leaves_what_cannot_change_the_output(run: Any) -> None:
    data = json.loads(run(*ASKED[:-1], "tpot", "--risk", "exact", "-f", "json").out)
    stacks = [each["stack"] for each in data["front"]]
    assert stacks
    kb = load()
    for stack in stacks:
        assert all("decode-loop" in kb[id_.partition(":")[0]].acts_at for id_ in stack)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--goal", "ttfft"), "no metric 'ttfft'; did you mean 'ttft'?"),
        (("--goal", "cost"), "cost needs the price of a device"),
        (("--slo", "ttft"), "--slo ttft: no limit; write metric=number"),
        (("--slo", "ttft=fast"), "'fast' is no number; give s"),
        (("--slo", "ttft=2d"), "'2d' is no number; give s, or with one of ms, us, µs, min behind it"),
        (("--slo", "ttft=-1"), "give a number of s from 1e-12"),
        (("--slo", "ttft=nan"), "give a number of s from 1e-12"),
        (("--slo", "ttft=1", "--slo", "ttft=2"), "ttft has a limit already"),
        (("--risk", "none"), "no risk 'none'"),
        (("--training", "non"), "no training 'non'; did you mean 'none'?"),
        (("--require", "family:nothing"), "--require family:nothing: family is never 'nothing'"),
        (("--require", "fastv and kivi"), "--require leaves nothing to search"),
        (("--try", "fastv:keep_ratio=2"), "keep_ratio: 2 lies outside [0, 1]"),
        (("--max", "9"), "max"),
        (("--hardware", "l4", "--model", "qwen2.5-vl-72b"), "holds"),
    ],
)
def test_a_fault_is_one_line_and_an_object_where_json_is_asked_for(run: Any, more: tuple[str, ...], said: str) -> None:
    got = run(*ASKED, *more)
    assert (got.code, got.out) == (2, "")
    assert said in got.err
    assert got.err.count("\n") == 1
    assert said in json.loads(run(*ASKED, *more, "--format", "json").out)["error"]["message"]


@pytest.mark.parametrize(
    ("limit", "most"),
    [("ttft=500ms", 0.5), ("ttft=2 s", 2), ("ttft=1e-1", 0.1), ("memory=40GB", 40), ("memory=1TB", 1000)],
)
def test_a_limit_may_have_a_unit(run: Any, limit: str, most: float) -> None:
    data = json.loads(run(*ASKED, "--slo", limit, "-f", "json").out)
    assert data["baseline"]["limits"][0]["most"] == pytest.approx(most)


def test_limits_are_held_against_software_as_it_is_and_the_title_says_so(run: Any) -> None:
    limited, free = run(*ASKED, "--slo", "ttft=60"), run(*ASKED)
    assert "vLLM" in limited.out.partition(":")[0]
    assert "ideal efficiency" in free.out.partition(":")[0]
    assert "ideal efficiency" in run(*ASKED, "--slo", "ttft=60", "--efficiency", "ideal").out.partition(":")[0]


def test_a_plan_that_keeps_no_limit_ends_with_1_and_one_that_does_with_0(run: Any) -> None:
    assert run(*ASKED, "--slo", "ttft=1us").code == 1
    assert run(*ASKED, "--slo", "ttft=60").code == 0


def test_what_the_graph_knows_of_a_pair_that_is_recommended_stands_under_it(run: Any) -> None:
    said = run(*ASKED).out
    plan = Planner().plan("qwen2.5-vl-7b", "h200", "images-20", goal="ttft")
    edges = [(pair, edge) for option in plan.front for pair in option.pairs for edge in pair.edges]
    assert edges
    words = " ".join(said.split())
    for pair, edge in edges:
        assert f"{pair.one} × {pair.two}: {edge.kind}" in words


def test_energy_and_cost_are_goals_where_power_and_price_are_known(run: Any) -> None:
    for goal, more in (("energy", ()), ("cost", ("--price", "3"))):
        data = json.loads(run(*ASKED[:-1], goal, *more, "-f", "json").out)
        assert data["front"][0]["gain"]["total"] > 1


def test_results_of_the_planned_model_are_shown_first(run) -> None:
    text = " ".join(run(*ASKED, "--require", "fastv").out.split())
    assert re.search(
        r"fastv: retained-quality [\d.]+ % of baseline on mean of the eleven benchmarks: qwen2\.5-vl-7b, keep_ratio=",
        text,
    )
    assert re.search(r"fastv: \d+ more: lvlm-atlas results fastv", text)
