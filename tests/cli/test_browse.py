"""The commands that browse and query: formats, exit codes, errors that suggest."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html import unescape
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.cli.rows import SHOWN
from lvlm_atlas.cli.sheet import sheet
from lvlm_atlas.cli.terminal import cells
from lvlm_atlas.graph.exports import EXPORTS

ATLAS = load()
IDS = sorted(ATLAS.atlas.techniques)


def test_a_list_has_every_technique_in_pipeline_order(run) -> None:
    said = run("list", "--format", "ids")
    assert said.code == 0
    ids = said.out.split()
    assert sorted(ids) == IDS
    places = [ATLAS.atlas.place(ATLAS.technique(id_)) for id_ in ids]
    assert places == sorted(places)


def test_every_format_holds_the_same_rows(run) -> None:
    ids = run("list", "-f", "ids").out.split()
    assert [row["id"] for row in json.loads(run("list", "-f", "json").out)] == ids
    assert [json.loads(line)["id"] for line in run("list", "-f", "jsonl").out.splitlines()] == ids
    assert [row["id"] for row in csv.DictReader(io.StringIO(run("list", "-f", "csv").out))] == ids
    assert [line.split("|")[1].strip() for line in run("list", "-f", "md").out.splitlines()[2:]] == ids
    table = run("list").out
    assert all(id_ in table for id_ in ids)


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_a_table_in_a_terminal_is_no_wider_than_the_terminal(columns: str) -> None:
    script = (
        "import pty, os, sys; os.environ['COLUMNS'] = sys.argv[1]; "
        "pty.spawn([sys.executable, '-m', 'lvlm_atlas', 'list'])"
    )
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "PAGER": "cat"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, columns],
        capture_output=True, text=True, check=True, env=environment, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert max(map(len, plain.splitlines())) <= int(columns)
    assert "fastv" in plain


@pytest.mark.parametrize("id_", IDS)
def test_a_sheet_says_what_its_entry_says(run, id_: str) -> None:
    technique = ATLAS.technique(id_)
    said = run("show", id_)
    text = " ".join(said.out.split())
    assert said.code == 0
    for part in (technique.name, technique.stage, technique.family, ATLAS.atlas.papers[technique.paper].title):
        assert " ".join(part.split()) in text
    for name in technique.parameters:
        assert name in text
    for edge in ATLAS.interactions(id_):
        assert edge.other(id_) in text


def test_a_name_an_alias_and_another_spelling_show_the_same(run) -> None:
    assert run("show", "fastv").out == run("show", "FastV").out == run("show", "fast-v").out


def test_a_former_id_is_followed_and_a_split_one_names_its_heirs(run, checkout: Path, tmp_path: Path) -> None:
    for name in ("taxonomy", "catalog"):
        shutil.copytree(checkout / name, tmp_path / name)
    shutil.copy(checkout / "papers.bib", tmp_path)
    folder = tmp_path / "catalog/techniques/decoding/speculative-decoding"
    (folder / "drafting.yaml").write_text("id: drafting\nmoved: speculative-sampling\n")
    (folder / "speculation.yaml").write_text("id: speculation\nsplit: [speculative-sampling, specvlm-ji]\n")
    for command in ("show", "graph"):
        followed, direct = (run(command, id_, "--root", tmp_path) for id_ in ("drafting", "speculative-sampling"))
        assert followed.out == direct.out
        assert "drafting is now speculative-sampling" in followed.err
        split = run(command, "speculation", "--root", tmp_path)
        assert (split.code, "was split into speculative-sampling, specvlm-ji" in split.err) == (2, True)
    assert "drafting" not in run("list", "--root", tmp_path, "-f", "ids").out.split()


def test_json_of_a_sheet_is_the_entry(run) -> None:
    shown = json.loads(run("show", "kivi", "--json").out)
    assert shown["parameters"]["bits"]["default"] == ATLAS.technique("kivi").parameters["bits"].default
    assert shown["file"].endswith("kivi.yaml")


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("technique", IDS)
def test_a_sheet_fits_the_width_it_is_given(technique: str, columns: int) -> None:
    lines = [line for block in sheet(ATLAS, ATLAS.technique(technique)) for line in block.lines(columns)]
    assert max(sum(cells(text) for text, _ in line) for line in lines) <= columns


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("show", "fastvv"), "did you mean 'fastv'?"),
        (("graph", "tomee"), "did you mean 'tome'?"),
        (("query", "stage:prefiling"), "did you mean 'prefilling'?"),
        (("query", "stge:prefilling"), "did you mean 'stage'?"),
        (("query", "composes-wth(fastv)"), "did you mean 'composes-with'?"),
        (("query", "composes-with(fastw)"), "did you mean 'fastv'?"),
        (("list", "training:non"), "did you mean 'none'?"),
        (("terms", "stag"), "did you mean 'stage'?"),
        (("smoke", "fastvv"), "did you mean 'fastv'?"),
        (("export", "--format", "graphm"), "did you mean 'graphml'?"),
        (("check", "--format", "jso"), "did you mean 'json'?"),
    ],
)
def test_a_misspelt_word_is_an_error_with_a_suggestion(run, arguments: tuple[str, ...], suggestion: str) -> None:
    said = run(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert suggestion in said.err


def test_an_answer_has_exit_zero_and_no_answer_exit_one_with_its_cause(run) -> None:
    assert run("query", "stage:decoding and training:none").code == 0
    said = run("query", "stage:encoding and effect:kv.bits")
    assert said.code == 1
    assert "kv.bits" in said.err


@pytest.mark.parametrize("bad", ["", "(", "stage:", "and", "a" * 2000, "within(fastv, x)"])
def test_a_bad_query_is_one_clear_error(run, bad: str) -> None:
    said = run("query", bad)
    assert said.code == 2
    assert said.err


def test_explain_says_why_with_the_evidence(run) -> None:
    said = run("query", "conflicts-with(speculative-sampling)", "--explain", "-f", "jsonl")
    row = json.loads(said.out.splitlines()[0])
    edge = row["because"][0]["edges"][0]
    assert {"kind", "evidence", "reason", "source"} <= edge.keys()
    assert edge["reason"]
    assert edge["reason"].split()[0] in run("query", "conflicts-with(speculative-sampling)", "--explain").out


def test_the_graph_command_prints_each_edge_with_its_reason(run) -> None:
    rows = json.loads(run("graph", "fastv", "-f", "json").out)
    stated = {row["id"] for row in rows if row["evidence"] != "predicted"}
    assert stated == {row["id"] for row in json.loads(run("show", "fastv", "--json").out)["edges"]}
    deeper = json.loads(run("graph", "fastv", "--depth", "2", "-f", "json").out)
    assert len(deeper) >= len(rows)


def test_between_two_techniques_every_edge_is_shown_or_a_shortest_way(run) -> None:
    rows = json.loads(run("graph", "fastv", "kivi", "-f", "json").out)
    assert {row["kind"] for row in rows} == {edge.kind for edge in ATLAS.between("fastv", "kivi")}
    far = next(two for two in IDS if len(ATLAS.path("fastv", two)) > 1)
    rows = json.loads(run("graph", "fastv", far, "-f", "json").out)
    assert {row["step"] for row in rows} == set(range(1, len(ATLAS.path("fastv", far)) + 1))
    assert rows[0]["relation"].startswith("fastv ")
    assert rows[-1]["relation"].endswith(f" {far}")


@pytest.mark.parametrize(
    ("word", "kind", "text"),
    [
        ("Qwen2.5-VL-7B", "model", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("l40s", "device", "864"),
        ("video-60s", "workload", "text_tokens"),
        ("epdserve", "system", "three pools of engines"),
        ("memory-bandwidth", "bound", "arithmetic intensity"),
        ("bandwidth-bound", "bound", "arithmetic intensity"),
        ("chen2024fastv", "work", "ECCV"),
    ],
)
def test_whatever_an_id_names_is_shown(run, word: str, kind: str, text: str) -> None:
    shown = run("show", word)
    assert f"({kind})" in shown.out.splitlines()[0] + shown.out.splitlines()[1]
    assert text in " ".join(shown.out.split())
    record = json.loads(run("show", word, "--json").out)
    assert record["record"] == kind


def test_a_term_of_several_vocabularies_is_shown_in_each(run) -> None:
    shared = next(
        id_
        for id_, count in Counter(t.id for name in ATLAS.atlas.vocabularies for t in ATLAS.atlas.terms(name)).items()
        if count > 1 and id_ not in {*IDS, *ATLAS.atlas.workloads}
    )
    records = json.loads(run("show", shared, "--json").out)
    assert {each["record"] for each in records} == {
        name for name in ATLAS.atlas.vocabularies if any(t.id == shared for t in ATLAS.atlas.terms(name))
    }
    for each in records:
        assert f"({each['record']})" in run("show", shared).out


def test_the_table_of_a_neighbourhood_shows_some_of_each_kind_and_all_on_request(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    rows = json.loads(run("graph", "fastv", "-f", "json").out)
    composing = [row for row in rows if row["kind"] == "composes-with" and row["evidence"] != "predicted"]
    assert len(composing) > SHOWN
    short, whole = (run("graph", "fastv", *more).out for more in ((), ("--all",)))
    assert f"fastv composes with {len(composing) - SHOWN} more" in short
    assert ("--all" in short, "--all" in whole) == (True, False)
    assert sum(row["reason"] in short for row in composing) == SHOWN
    assert all(row["reason"] in whole for row in rows)


def test_the_laws_are_said_in_words_where_names_would_fill_a_screen(run) -> None:
    for command in ("graph", "show"):
        text = " ".join(run(command, "divprune").out.split())
        assert re.search("cascades to whatever acts later, from `[a-z-]+` to `decode-loop`", text)
        assert "is-fed-by(divprune)" in text
    assert "fastv" in run("query", "is-fed-by(divprune)", "-f", "ids").out.split()


def test_every_vocabulary_can_be_listed(run) -> None:
    for row in json.loads(run("terms", "-f", "json").out):
        listed = json.loads(run("terms", row["id"], "-f", "json").out)
        assert listed
        assert all(term["definition"] for term in listed)


def test_the_query_language_explains_itself_and_its_examples_run(run) -> None:
    for row in json.loads(run("fields", "-f", "json").out):
        assert run("query", row["example"]).code in (0, 1)


def test_systems_are_listed_and_one_is_shown_whole(run) -> None:
    ids = run("systems", "-f", "ids").out.split()
    assert ids == sorted(load().atlas.systems)
    (row,) = json.loads(run("systems", "EPDServe", "-f", "json").out)
    assert (row["id"], row["communication"][0]["byte"]) == ("epdserve", "P * N_v * D")
    said = run("systems", "epdserv")
    assert (said.code, "did you mean 'epdserve'?" in said.err) == (2, True)


def test_coverage_counts_the_works_of_each_list_and_names_those_in_a_state(run) -> None:
    rows = json.loads(run("coverage", "-f", "json").out)
    assert [row["id"] for row in rows] == sorted(load().atlas.lists)
    for row in rows:
        works = json.loads(run("coverage", row["id"], "-f", "json").out)
        by_id = {work["id"]: work["state"] for work in works}
        assert len(by_id) == row["works"]
        assert sum(state == "running" for state in by_id.values()) == row["running"]
        missing = run("coverage", row["id"], "--state", "missing", "-f", "ids").out.split()
        assert {*missing} == {id_ for id_, state in by_id.items() if state == "missing"}


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("survey-figure",), "did you mean 'survey-figure-3'?"),
        (("survey-figure-3", "--state", "runing"), "did you mean 'running'?"),
        (("--state", "missing"), "of which list?"),
    ],
)
def test_a_wrong_word_to_coverage_is_answered_with_the_right_one(run, arguments: tuple[str, ...], hint: str) -> None:
    said = run("coverage", *arguments)
    assert (said.code, hint in said.err) == (2, True)


def test_references_are_those_of_the_techniques_asked_for(run) -> None:
    bibtex = run("cite", "stage:prefilling", "kivi").out
    wanted = {
        key
        for technique in ATLAS.atlas.techniques.values()
        if technique.stage == "prefilling" or technique.id == "kivi"
        for key in (technique.paper, *technique.also)
    }
    assert set(re.findall(r"^@\w+\{([^,]+),", bibtex, re.MULTILINE)) == wanted
    items = json.loads(run("cite", "stage:prefilling", "kivi", "-f", "csl").out)
    assert {item["id"] for item in items} == wanted
    assert all(item["author"] and item["issued"]["date-parts"][0][0] > 1900 for item in items)
    assert set(re.fullmatch(r"\\cite\{(.*)\}\n", run("cite", "chen2024fastv", "-f", "latex").out)[1].split(",")) == {
        "chen2024fastv"
    }


@pytest.mark.parametrize(
    ("words", "hint"),
    [(("fastvv",), "did you mean 'fastv'?"), (("stage:prefillin",), "did you mean 'prefilling'?"),
     (("fastv", "-f", "bib"), "did you mean 'bibtex'?"), (("stage:serving",), "serving")],
)  # fmt: skip
def test_what_cannot_be_cited_is_said(run, words: tuple[str, ...], hint: str) -> None:
    said = run("cite", *words)
    assert (said.code, hint in said.err) == (2, True)


def test_a_query_by_engine_says_how_it_is_switched_on_and_where_that_can_be_read(run) -> None:
    said = run("query", "shipped-in:vllm", "--explain", "-f", "jsonl")
    rows = [json.loads(line) for line in said.out.splitlines()]
    shipping = {t.id for t in ATLAS.atlas.techniques.values() if any(each.engine == "vllm" for each in t.shipped_in)}
    assert {row["id"] for row in rows} == shipping
    assert shipping >= {"speculative-sampling"}
    (because,) = next(row["because"] for row in rows if row["id"] == "speculative-sampling")
    assert "speculative_config" in because["found"]
    assert "vllm2026" in because["found"]
    assert {*run("query", "engine:vLLM", "-f", "ids").out.split()} == shipping


@pytest.mark.parametrize("format_", sorted(set(EXPORTS) - {"csv"}))  # a row of which is an interaction
def test_exports_name_every_technique(run, format_: str) -> None:
    said = run("export", "--format", format_)
    assert said.code == 0
    text = unescape(said.out.replace("#", "&#"))  # Mermaid writes entities with a #
    assert all(id_ in text or ATLAS.technique(id_).name in text for id_ in IDS)


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    command = f"{sys.executable} -m lvlm_atlas export --format json | head -c 10"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_no_command_that_needs_no_tensor_imports_torch() -> None:
    code = (
        "import sys; sys.argv = ['lvlm-atlas', 'show', 'fastv']\n"
        "from lvlm_atlas.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'networkx' not in sys.modules, 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_system_is_said_to_be_one_where_a_technique_is_asked_for(run) -> None:
    said = run("graph", "elasticmm")
    assert said.code == 2
    assert "is a system, no technique; `lvlm-atlas systems` lists it" in said.err


def test_help_and_versions_are_where_people_look_for_them(run) -> None:
    assert run("-V").out == run("--version").out != ""
    assert json.loads(run("show", "kivi", "-f", "json").out) == json.loads(run("show", "kivi", "--json").out)
    said = subprocess.run(
        [sys.executable, "-m", "lvlm_atlas", "help", "plan"], capture_output=True, text=True, timeout=60, check=True
    )
    assert re.search(r"Usage: .* plan \[OPTIONS\]", said.stdout)


def test_a_field_that_stands_alone_is_told_as_one(run) -> None:
    said = run("query", "reported-for")
    assert (said.code, said.out) == (2, "")
    assert "it is a field, such as reported_for:" in said.err


@pytest.mark.parametrize("columns", [60, 80])
def test_a_list_has_a_line_for_each_technique(run, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = [line for line in run("list").out.splitlines()[3:] if line]
    ids = run("list", "-f", "ids").out.split()
    assert [row.split()[0] for row in rows] == ids
    assert max(map(len, rows)) <= columns
