"""`lvlm-atlas estimate`: its table, its contract, and one clear line for each bad input."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from lvlm_atlas.atlas.edition import digest
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.cli.estimate import print_estimate
from lvlm_atlas.cli.options import Report
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.contract import contract
from lvlm_atlas.roofline.contract_fields import COMMAND_FIELDS, FIELDS, FORMAT, OPERATOR_FIELDS, schema

QWEN = ("estimate", "--model", "qwen2.5-vl-7b", "--hardware", "h200")
STACK = ("--stack", "fastv:keep_ratio=0.5", "--stack", "kivi:bits=2")


def paths(value: Any, path: str = "") -> Iterator[str]:
    """Dotted names of everything in JSON data, as the table of fields writes them."""
    if isinstance(value, dict):
        for key, item in value.items():
            name = "*" if path == "stages" else key
            yield from paths(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from paths(item, f"{path}[]")
    else:
        yield path


@pytest.mark.parametrize("stack", [(), STACK])
@pytest.mark.parametrize("workload", ["images-20", "video-60s", "multi-turn", "batch-captioning"])
def test_json_has_exactly_the_documented_fields(run, workload: str, stack: tuple[str, ...]) -> None:
    said = run(*QWEN, "--workload", workload, *stack, "--operators", "--format", "json")
    assert said.code == 0
    data = json.loads(said.out)
    assert set(paths(data)) - {"data"} == {each.name for each in (*FIELDS, *OPERATOR_FIELDS)}
    assert data["data"] == digest(data_root())
    assert data["format"] == FORMAT
    jsonschema.validate(data, schema())


@pytest.mark.parametrize("model", sorted(Planner().atlas.models))
def test_json_of_every_model_fits_the_schema(model: str) -> None:
    planner = Planner()
    data = contract(planner.estimate(model, "h200"), operators=True)
    jsonschema.validate(json.loads(json.dumps(data, allow_nan=False)), schema())


def test_json_holds_what_the_engine_says(run) -> None:
    data = json.loads(run(*QWEN, "--workload", "images-20", "-f", "json").out)
    assert data["tokens"]["vision"] == 20 * 1196
    assert data["tokens"]["encoder"] == 20 * 4784
    assert data["kv_byte"] == 57344 * (20 * 1196 + 128)
    assert data["kv_vision_byte"] == 57344 * 20 * 1196
    assert data["weight_byte"] == 2 * 8292166656
    assert all(isinstance(data[name], int) for name in ("kv_byte", "kv_vision_byte", "weight_byte"))
    stages = data["stages"]
    assert set(stages) == {"encoding", "prefilling", "decoding"}
    assert data["total_s"] == pytest.approx(sum(stage["time_s"] for stage in stages.values()))
    for stage in stages.values():
        assert stage["intensity"] == pytest.approx(stage["flop"] / stage["byte"])
    assert "operators" not in data


def test_fields_are_explained(run) -> None:
    said = run("estimate", "--fields")
    assert said.code == 0
    for each in (*FIELDS, *OPERATOR_FIELDS, *COMMAND_FIELDS):
        assert each.name.split(".")[-1][:8] in said.out


@pytest.mark.parametrize("stack", [(), STACK])
def test_the_table_fits_80_columns_and_is_plain_in_a_pipe(run, stack: tuple[str, ...]) -> None:
    said = run(*QWEN, "--workload", "images-20", "--operators", "--price", "3.5", *stack)
    assert said.code == 0
    assert said.err == ""
    assert "\x1b" not in said.out
    for line in said.out.splitlines():
        assert len(line) <= 80
        assert line == line.rstrip()


def test_the_table_tells_each_stage_the_bottleneck_and_what_was_assumed(run) -> None:
    out = run(*QWEN, "--workload", "images-20", "--explain").out
    for word in ("encoding", "prefilling", "decoding", "95,680", "24,048", "time to first token", "fused"):
        assert word in out
    assert "Predicted, not measured." in out
    short = run(*QWEN, "--workload", "images-20").out
    assert short.splitlines()[1].startswith("decoding is memory-bound")  # the verdict comes before the tables
    assert "Predicted, not measured; 9 assumptions: --explain" in short
    assert "fused" not in short


def test_a_narrow_terminal_goes_without_columns_and_breaks_none(run, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        out = run(*QWEN, "--workload", "images-20", *STACK).out
        assert max(map(len, out.splitlines())) <= columns
        assert ("FLOP" in out, "share" in out) == (columns == 80, True)


@pytest.mark.parametrize(("context", "beyond"), [(None, False), (24_304, False), (24_303, True)])
def test_a_prompt_beyond_the_models_context_is_said_first(
    capsys: pytest.CaptureFixture[str], context: int | None, beyond: bool
) -> None:
    planner = Planner()
    model = planner.model("qwen2.5-vl-7b")
    found = planner.estimate(replace(model, llm=replace(model.llm, context=context)), "h200", "images-20")
    print_estimate(found, None, Report.table, root=data_root(), operators=False, explain=True)
    out = " ".join(capsys.readouterr().out.split())
    assert ("24,304 tokens of prompt and answer where Qwen2.5-VL-7B is released for" in out) == beyond
    assert ("is not checked" in out) == (context is None)
    data = contract(found)
    assert (data["context_tokens"], data["model_context_tokens"]) == (24_304, context)


def test_with_a_stack_the_table_shows_what_it_gains(run) -> None:
    out = run(*QWEN, "--workload", "images-20", *STACK).out
    rows = [line.split() for line in out.splitlines()]
    gains = {row[0]: row[-2:] for row in rows if row and row[0] in ("encoding", "prefilling", "decoding")}
    assert gains["encoding"] == ["1.00", "×"]
    assert float(gains["prefilling"][0]) > 1.5
    assert sum(row[:1] == ["without"] for row in rows) == 3


def test_csv_is_si_units_a_row_a_stage_or_an_operator(run) -> None:
    rows = list(csv.DictReader(io.StringIO(run(*QWEN, *STACK, "-f", "csv").out)))
    assert [row["stage"] for row in rows] == ["encoding", "prefilling", "decoding"]
    for row in rows:
        assert float(row["gain"]) == pytest.approx(float(row["time_s_without"]) / float(row["time_s"]))
    rows = list(csv.DictReader(io.StringIO(run(*QWEN, "-f", "csv", "--operators").out)))
    assert "llm.query" in {row["name"] for row in rows}


def test_markdown_holds_tables_of_even_width(run) -> None:
    out = run(*QWEN, *STACK, "-f", "md", "--operators").out
    tables = [block.splitlines() for block in out.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        (("--image", "1280x720"), 1196),
        (("--image", "1280x720", "--images", "3"), 3 * 1196),
        (("--image", "1280x720", "--image", "336x336"), 1196 + 144),
        (("--images", "2"), 2 * 1196),
        (("--video", "1280x720:5s@2"), 3600),
        (("--image", "336x336", "--video", "1280x720:5s@2"), 144 + 3600),
    ],
)
def test_visual_input_replaces_that_of_the_workload(run, more: tuple[str, ...], tokens: int) -> None:
    data = json.loads(run(*QWEN, *more, "-f", "json").out)
    assert data["tokens"]["vision"] == tokens
    assert (data["tokens"]["text"], data["tokens"]["output"]) == (128, 256)
    assert data["workload"].startswith("single-image-chat:")


def test_options_reach_the_deployment(run) -> None:
    plain = json.loads(run(*QWEN, "-f", "json").out)
    lighter = json.loads(run(*QWEN, "--weight-dtype", "fp8", "--kv-dtype", "fp8", "--price", "3", "-f", "json").out)
    assert lighter["weight_byte"] * 2 == plain["weight_byte"]
    assert lighter["kv_byte"] * 2 == plain["kv_byte"]
    assert (plain["cost_usd"] is None, lighter["cost_usd"] > 0) == (True, True)
    two = json.loads(run(*QWEN, "--tp", "2", "--batch", "4", "--turns", "2", "-f", "json").out)
    assert two["batch"] == 4
    assert two["device_byte"] < plain["device_byte"]
    slower = json.loads(run(*QWEN, "--efficiency", "typical", "--attention", "materialised", "-f", "json").out)
    assert slower["total_s"] > plain["total_s"]
    llava = ("estimate", "-m", "llava-1.5-7b", "-d", "h200", "-f", "json")
    every, needed = (json.loads(run(*llava, *more).out) for more in ((), ("--skip-unused-layers",)))
    assert needed["stages"]["encoding"]["flop"] < every["stages"]["encoding"]["flop"]


BAD = [
    (("--model", "qwen2.5-vl-7"), "did you mean 'qwen2.5-vl-7b'?"),
    (("--hardware", "h2000"), "did you mean 'h200'?"),
    (("--workload", "image-20"), "did you mean 'images-20'?"),
    (("--stack", "fastvv"), "did you mean 'fastv'?"),
    (("--stack", "fastv:keep_ration=0.5"), "did you mean 'keep_ratio'?"),
    (("--stack", "fastv:keep_ratio=3"), "lies outside"),
    (("--stack", "fastv:keep_ratio=nan"), "lies outside"),
    (("--stack", "fastv:keep_ratio"), "write name=value"),
    (("--stack", "look-m", "--stack", "xattention"), "cannot share a stack"),
    (("--stack", "fastv", "--stack", "fastv"), "twice"),
    (("--stack", "fastv+"), "lacks a technique"),
    (("--stack", "fastv,kivi"), "joined by a plus, such as fastv+kivi"),
    (("--image", "1280"), "write WIDTHxHEIGHT"),
    (("--image", "0x720"), "is no size"),
    (("--image", "-5x720"), "is no size"),
    (("--image", "nanxinf"), "is no size"),
    (("--image", "9" * 5000 + "x9"), "is no size"),
    (("--image", "99999x99999"), "shrink it"),
    (("--image", "1x999"), "crop the image"),
    (("--video", "1280x720"), "write WIDTHxHEIGHT:DURATION@FPS"),
    (("--video", "1280x720:0s"), "above 0"),
    (("--video", "1280x720:5s@0"), "above 0"),
    (("--video", "1280x720:infs"), "is none"),
    (("--video", "1280x720:5s", "--images", "3"), "there is none to count"),
    (("--workload", "video-60s", "--images", "3"), "there is none to count"),
    (("--model", "llava-1.5-7b", "--video", "1280x720:60s@2"), "takes no video"),
    (("--model", "llava-1.5-7b", "--workload", "video-60s"), "takes no video"),
    (("--tp", "3"), "28 heads"),
    (("--tp", "0"), "1 or more"),
    (("--pp", "99"), "28 layers"),
    (("--tp", "2", "--hardware", "apple-m4-max-40"), "no link"),
    (("--price", "nan"), "price from 0 to 1e+09"),
    (("--price", "inf"), "price from 0 to 1e+09"),
    (("--price", "-1"), "price from 0 to 1e+09"),
    (("--kv-dtype", "fp9"), "did you mean 'fp8'?"),
    (("--weight-dtype", "bf61"), "did you mean 'bf16'?"),
    (("--activation-dtype", "int2"), "has no peak"),
    (("--activation-dtype", "fp8", "--hardware", "a100-sxm-80"), "has no peak"),
    (("--efficiency", "idea"), "did you mean 'ideal'?"),
    (("--attention", "flash"), "materialised"),
    (("--bogus",), "No such option"),
    (("--tp",), "--tp"),
    *(((option, number), "") for option in ("--images", "--text", "--output", "--batch", "--turns", "--tp", "--pp")
      for number in ("-1", "nan", "inf", "1.5", "x", "9" * 5000)),
    *(((option, "0"), "from 1 to") for option in ("--max-pixels", "--output", "--batch", "--turns")),
    (("--images", "0", "--text", "0"), "the request is empty"),
    (("--model", "llava-1.5-7b", "--max-pixels", "1003520"), "knows no limit of pixels"),
    (("--vision-tokens", "20000"), "the nearest is"),
    (("--video", "1280x720:60s", "--video-by", "servers"), "has no such rule of videos"),
    *(((option, str(10**12)), "from") for option in ("--images", "--text", "--output", "--batch", "--turns")),
]  # fmt: skip
"""Options that are wrong, and a word of what is said."""


def given(more: tuple[str, ...]) -> tuple[str, ...]:
    """A command line with these options, in place of the usual ones where both are given."""
    usual = {"--model": "qwen2.5-vl-7b", "--hardware": "h200"}
    kept = [word for name, value in usual.items() if name not in more for word in (name, value)]
    return ("estimate", *kept, *more)


@pytest.mark.parametrize(("more", "message"), BAD, ids=[" ".join(more)[:60] for more, _ in BAD])
def test_bad_input_is_one_line_and_an_object_where_json_is_asked_for(run, more: tuple[str, ...], message: str) -> None:
    said = run(*given(more))
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("lvlm-atlas: ")
    assert said.err.count("\n") == 1
    assert message in said.err
    again = run(given(more)[0], "--format", "json", *given(more)[1:])
    assert (again.code, again.err) == (2, said.err)
    error = json.loads(again.out)["error"]
    assert error == {"message": said.err.removeprefix("lvlm-atlas: ").rstrip("\n"), "exit_code": 2}


@pytest.mark.parametrize(
    ("more", "repair"),
    [
        (("--model", "qwen2.5-vl-72b", "--hardware", "h100"), "give --tp 2 or --weight-dtype llm=fp8"),
        (("--model", "qwen3-vl-235b-a22b", "--hardware", "apple-m4-max-40"), "give --weight-dtype awq"),
        (("--batch", "4000"), "give --batch "),
    ],
)
def test_what_does_not_fit_is_said_with_the_repair_and_json_holds_the_estimate(
    run, more: tuple[str, ...], repair: str
) -> None:
    said = run(*given(more))
    assert said.code == 2
    assert "time to first token" in said.out  # what it would cost all the same
    assert said.err.count("\n") == 1
    assert repair in said.err
    assert "plan --goal memory" in said.err
    for word in ("weights", "cache", "activations", "GB"):
        assert word in said.err
    data = json.loads(run(*given(more), "-f", "json").out)
    assert data["fits"] is False
    assert data["error"] == {"message": said.err.removeprefix("lvlm-atlas: ").rstrip("\n"), "exit_code": 2}
    jsonschema.validate(data, schema())


def test_the_repair_that_is_proposed_repairs(run) -> None:
    big = ("estimate", "-m", "qwen2.5-vl-72b", "-d", "h100")
    assert run(*big, "--tp", "2").code == 0
    assert run(*big, "--weight-dtype", "llm=fp8").code == 0


def test_the_program_itself_says_the_same_as_a_process() -> None:
    command = [sys.executable, "-m", "lvlm_atlas", *QWEN, "--format=json", "--tp", "nan"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["exit_code"] == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "ids"),
    [("models", "qwen2.5-vl-7b"), ("hardware", "h200-sxm"), ("workloads", "images-20")],
)
def test_what_can_be_given_is_listed(run, command: str, ids: str) -> None:
    assert ids in run(command, "-f", "ids").out.split()
    one = json.loads(run(command, ids, "-f", "json").out)
    assert [row["id"] for row in one] == [ids]
    for line in run(command).out.splitlines():
        assert len(line) <= 80
    said = run(command, "nothing-like-it")
    assert (said.code, said.out) == (2, "")


def test_a_stack_is_written_in_one_text_or_in_several(run) -> None:
    several = run(*QWEN, *STACK, "-f", "json").out
    assert run(*QWEN, "--stack", "fastv:keep_ratio=0.5 + kivi:bits=2", "-f", "json").out == several
    planner = Planner()
    one, two = (
        planner.estimate("qwen2.5-vl-7b", "h200", stack=stack).ttft_s
        for stack in ("fastv:keep_ratio=5e-1+kivi", ["fastv", "kivi"])
    )
    assert one == two


def test_frames_that_a_model_does_not_read_are_told_and_can_be_asked_for(run) -> None:
    internvl = ("estimate", "-m", "internvl3-8b", "-d", "a100", "-w", "video-60s")
    assert "frames read: 8 of 120 asked for" in run(*internvl).out
    data = json.loads(run(*internvl, "-f", "json").out)
    assert (data["frames_read"], data["frames_asked"]) == (8, 120)
    more = json.loads(run(*internvl, "--frames", "32", "-f", "json").out)
    assert (more["frames_read"], more["tokens"]["vision"]) == (32, 4 * data["tokens"]["vision"])
    assert more["workload"] == "video-60s:frames=32"
    assert "frames read" not in run(*internvl, "--frames", "32").out
    assert "frames read" not in run(*QWEN, "--workload", "video-60s").out
    refused = run(*QWEN, "--frames", "8")
    assert (refused.code, "there is no video" in refused.err) == (2, True)


def test_text_alone_is_priced_without_an_encoder(run) -> None:
    data = json.loads(run(*given(("--images", "0", "--format", "json"))).out)
    assert (data["tokens"]["vision"], data["stages"]["encoding"]["time_s"]) == (0, 0)
    assert data["image_sizes"] == []


def test_an_image_sized_for_a_number_of_tokens_says_which_size(run) -> None:
    said = run(*given(("--vision-tokens", "1000"))).out
    assert "sized for 1,000 vision tokens an image: 1176x672, which becomes 1,008" in said
    data = json.loads(run(*given(("--vision-tokens", "1000", "--format", "json"))).out)
    assert (data["image_sizes"], data["tokens"]["vision"]) == (["1176x672"], 1008)


def test_another_rule_of_videos_is_named_beside_the_one_taken(run) -> None:
    asked = ("--model", "qwen3-vl-8b", "--video", "1280x720:5s@2")
    assert "4,400 vision tokens" in " ".join(run(*given(asked)).out.split())
    chosen = run(*given((*asked, "--video-by", "servers", "--format", "json"))).out
    assert json.loads(chosen)["tokens"]["vision"] == 4400
