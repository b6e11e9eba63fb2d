"""`new`: files that run, placeholders for all that it cannot know, and nothing half-written."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import Any

import pytest

from lvlm_atlas.atlas.loader import taxonomy
from lvlm_atlas.atlas.records import CURVES, MEASUREMENTS, STACKS
from lvlm_atlas.atlas.yaml_subset import parse
from lvlm_atlas.drafts.points import extension_points
from lvlm_atlas.rules.check import check
from lvlm_atlas.rules.sample import as_yaml

POSITIONS = list(extension_points())
ALL_POSITIONS = [term.id for term in taxonomy().terms("position")]
MEASURED = [folder.name for folder in (CURVES, STACKS, MEASUREMENTS)]
BIB = """\
@inproceedings{doe2024madeup,
  title         = {MadeUp: LLM Knows What You are Looking for Before Generation},
  author        = {Li, Yuhong and Huang, Yingbing},
  booktitle     = {NeurIPS},
  year          = {2024},
  eprint        = {2404.99999},
  archiveprefix = {arXiv},
  url           = {https://arxiv.org/abs/2404.99999},
}
"""


@pytest.fixture
def clone(checkout: Path, tmp_path: Path) -> Path:
    """A copy of what `new` writes into, without what was measured, which no new entry is in."""
    root = tmp_path / "clone"
    root.mkdir()
    for name in ("taxonomy", "catalog"):
        shutil.copytree(checkout / name, root / name, ignore=shutil.ignore_patterns(*MEASURED))
    shutil.copy(checkout / "papers.bib", root)
    (root / "src" / "lvlm_atlas" / "reference" / "techniques").mkdir(parents=True)
    (root / "tests" / "reference" / "techniques").mkdir(parents=True)
    return root


@pytest.fixture
def bib(tmp_path: Path) -> Path:
    """A BibTeX file with a work that is not in papers.bib."""
    path = tmp_path / "snapkv.bib"
    path.write_text(BIB, "utf-8")
    return path


def new(run, root: Path, id_: str = "my-method", *flags: str, **options: Any):
    given: dict[str, Any] = {
        "family": "token-compression.attention-guided",
        "acts_at": "llm-layer",
        "paper": "chen2024fastv",
        **options,
    }
    words = [
        word
        for name, values in given.items()
        for value in (values if isinstance(values, list) else [values])
        if value is not None
        for word in (f"--{name.replace('_', '-')}", value)
    ]
    return run("new", id_, *words, *flags, "--root", root)


def written(said) -> list[str]:
    """The paths that `new` says it wrote."""
    return [line.removeprefix("wrote ") for line in said.out.splitlines() if line.startswith("wrote ")]


def filled_in(entry: Path) -> None:
    """Write into a draft what a contributor would."""
    data = parse(entry.read_text("utf-8"))
    share = {"type": "float", "default": 0.5, "range": "(0, 1]", "doc": "Share kept."}
    data |= {
        "summary": "Keeps some.", "modality": ["image"], "training": "none", "query_aware": False,
        "relieves": [{"stage": data["stage"], "bound": "compute"}], "mechanism": ["token-pruning"],
        "signals": ["recency"], "needs": [need for need in data["needs"] if "FILL IN" not in need],
        "explanation": "Some suffice.", "parameters": {"keep_ratio": share},
        "algorithm": [{**step, "does": "Keeps some."} for step in data["algorithm"]], "overheads": [],
        "verified": "paper",
    }  # fmt: skip
    if data["status"] == "implemented":
        data |= {"pitfalls": [], "neutral": {"keep_ratio": 1.0}, "trials": [{"keep_ratio": 0.5}]}
    for effect in data["effects"]:
        for key, value in effect.items():
            if "FILL IN" in value:
                effect[key] = {"scale": "keep_ratio", "exact": "greedy"}.get(key, 4)
    entry.write_text(as_yaml(data), "utf-8")


@pytest.mark.parametrize("position", POSITIONS)
def test_the_three_files_are_written_for_every_extension_point(run, clone: Path, position: str) -> None:
    said = new(run, clone, acts_at=position)
    assert said.code == 0
    entry, reference, test = written(said)
    assert entry == "catalog/techniques/prefilling/token-compression/my-method.yaml"
    assert f"acts_at: [{position}]" in (clone / entry).read_text("utf-8")
    for path in (reference, test):
        ast.parse((clone / path).read_text("utf-8"))


@pytest.mark.parametrize("position", POSITIONS)
def test_a_draft_lacks_what_is_to_fill_in_and_then_nothing(run, clone: Path, position: str) -> None:
    said = new(run, clone, acts_at=position)
    assert {fault.rule for fault in check(clone)} == {"placeholder"}
    filled_in(clone / written(said)[0])
    assert [str(fault) for fault in check(clone)] == []


def test_check_names_every_place_to_fill_in_at_its_line(run, clone: Path) -> None:
    entry = clone / written(new(run, clone))[0]
    lines = [number for number, line in enumerate(entry.read_text("utf-8").splitlines(), 1) if "FILL IN" in line]
    named = sorted(fault.line for fault in check(clone))
    assert len(named) == len(lines)
    assert all(abs(at - line) <= 1 for at, line in zip(named, lines, strict=True))


@pytest.mark.parametrize(
    "key",
    ["summary", "modality", "training", "query_aware", "relieves", "mechanism", "signals", "needs", "explanation",
     "algorithm", "parameters", "effects", "overheads", "pitfalls", "neutral", "trials", "verified"],
)  # fmt: skip
def test_what_new_cannot_know_is_left_open(run, clone: Path, key: str) -> None:
    data = parse((clone / written(new(run, clone))[0]).read_text("utf-8"))
    assert "FILL IN" in str(data[key])


def test_what_family_and_positions_say_is_filled_in(run, clone: Path) -> None:
    said = new(run, clone, family="kv-cache-compression.bit-level", acts_at="cache-bits")
    data = parse((clone / written(said)[0]).read_text("utf-8"))
    assert data["stage"] == data["relieves"][0]["stage"] == "decoding"
    assert data["effects"][0]["quantity"] == "kv.bits"


def test_a_family_of_any_stage_takes_that_of_the_first_position(run, clone: Path) -> None:
    said = new(run, clone, family="baselines", acts_at="frames")
    entry, reference, _ = written(said)
    assert entry == "catalog/techniques/encoding/baselines/my-method.yaml"
    assert reference == "src/lvlm_atlas/reference/techniques/encoding/my_method.py"
    filled_in(clone / entry)
    assert [str(fault) for fault in check(clone)] == []


def test_lists_are_indented_as_in_other_entries(run, clone: Path) -> None:
    text = (clone / written(new(run, clone))[0]).read_text("utf-8")
    assert "\n- " not in text
    assert "\neffects:\n  - quantity: llm.vision-tokens\n" in text


def test_several_positions_give_a_method_and_an_effect_each_in_pipeline_order(run, clone: Path) -> None:
    said = new(run, clone, acts_at=["cache-tokens", "llm-layer", "cache-tokens"])
    entry, reference, _ = written(said)
    data = parse((clone / entry).read_text("utf-8"))
    assert data["acts_at"] == ("llm-layer", "cache-tokens")
    assert [effect["quantity"] for effect in data["effects"]] == ["llm.vision-tokens", "kv.tokens"]
    tree = ast.parse((clone / reference).read_text("utf-8"))
    (technique,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    methods = [node.name for node in technique.body if isinstance(node, ast.FunctionDef)]
    assert methods == [extension_points()[position].method for position in data["acts_at"]]
    assert [step["code"] for step in data["algorithm"]] == [f"MyMethod.{method}" for method in methods]


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("SnapKV", "SnapKV"),
        ("PyramidKV", "PyramidKV"),
        ("VL-Cache", "VLCache"),
        ("look m", "LookM"),
        ("2D-Prune", "Technique2DPrune"),
        ("Über-Prune", "UberPrune"),
        ("聚焦", "MyMethod"),
        (None, "MyMethod"),
    ],
)
def test_the_class_is_called_as_the_technique(run, clone: Path, name: str | None, class_name: str) -> None:
    entry, reference, test = written(new(run, clone, name=name))
    assert parse((clone / entry).read_text("utf-8"))["name"] == (name or "my-method")
    assert f"my_method:{class_name}\n" in (clone / entry).read_text("utf-8")
    assert f"class {class_name}(Technique):" in (clone / reference).read_text("utf-8")
    assert f"import {class_name}\n" in (clone / test).read_text("utf-8")


def test_an_id_that_is_no_module_name_gets_one(run, clone: Path) -> None:
    _, reference, test = written(new(run, clone, "4k-drop"))
    assert reference.endswith("/technique_4k_drop.py")
    ast.parse((clone / test).read_text("utf-8"))


def test_the_hand_case_fails_until_it_is_written(run, clone: Path) -> None:
    tree = ast.parse((clone / written(new(run, clone))[2]).read_text("utf-8"))
    case = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and "by_hand" in node.name)
    (call,) = (node for node in ast.walk(case) if isinstance(node, ast.Call))
    assert ast.unparse(call.func) == "pytest.fail"


@pytest.mark.parametrize("position", ALL_POSITIONS)
def test_an_entry_that_is_only_described_is_one_file_at_any_position(run, clone: Path, position: str) -> None:
    said = new(run, clone, "my-method", "--described", acts_at=position)
    assert said.code == 0
    (entry,) = written(said)
    data = parse((clone / entry).read_text("utf-8"))
    assert (data["status"], data["acts_at"]) == ("described", (position,))
    assert not {"reference", "neutral", "trials"} & set(data)
    assert {fault.rule for fault in check(clone)} == {"placeholder"}


@pytest.mark.parametrize(
    ("family", "kind"), [("serving-systems.stage-based", "serving-system"), (None, "engine-feature")]
)
def test_a_system_is_one_record(run, clone: Path, family: str | None, kind: str) -> None:
    said = new(run, clone, "my-system", "--system", family=family, acts_at=None, name="My: System")
    (path,) = written(said)
    assert path == "catalog/systems/my-system.yaml"
    data = parse((clone / path).read_text("utf-8"))
    assert (data["kind"], data.get("family"), data["name"]) == (kind, family, "My: System")
    assert {fault.rule for fault in check(clone)} == {"placeholder"}
    assert "'my-system' is taken" in new(run, clone, "my-system").err


def test_what_a_system_has_not_is_refused_and_what_a_technique_needs_is_asked_for(run, clone: Path) -> None:
    assert "a system acts at no position" in new(run, clone, "my-system", "--system").err
    assert "give --family and --acts-at" in new(run, clone, family=None).err


def test_a_private_catalog_takes_described_entries(run, clone: Path) -> None:
    shutil.rmtree(clone / "src")
    assert new(run, clone).err.startswith(f"lvlm-atlas: {clone} is no checkout of the project")
    assert new(run, clone, "my-method", "--described").code == 0


def test_a_second_draft_can_begin_beside_the_first_and_terms_can_be_asked_for(run, clone: Path) -> None:
    new(run, clone)
    assert new(run, clone, "other-method").code == 0
    assert (
        new(run, clone).err == "lvlm-atlas: the id 'my-method' is taken and means one thing for ever; choose another\n"
    )
    assert "token-pruning" in run("terms", "mechanism", "--root", clone).out
    said = run("list", "--root", clone)
    assert said.code == 0
    assert said.err.startswith("my-method is left out: it is a draft")


def test_a_paper_is_taken_along_from_a_file(run, clone: Path, bib: Path) -> None:
    before = (clone / "papers.bib").read_text("utf-8")
    said = new(run, clone, paper=None, from_bib=bib)
    assert "papers.bib" in written(said)
    assert (clone / "papers.bib").read_text("utf-8") == f"{before.rstrip()}\n\n{BIB}"
    assert parse((clone / written(said)[0]).read_text("utf-8"))["paper"] == "doe2024madeup"
    assert {fault.rule for fault in check(clone)} == {"placeholder"}


def test_of_several_works_in_a_file_one_is_chosen(run, clone: Path, bib: Path) -> None:
    other = (
        BIB.replace("doe2024madeup", "doe2025other").replace("2404.99999", "2501.00001").replace("MadeUp:", "Other:")
    )
    bib.write_text(f"{other}\n{BIB}", "utf-8")
    said = new(run, clone, paper=None, from_bib=bib)
    assert (said.code, said.out) == (2, "")
    assert "holds 2 works; choose one with --paper: doe2025other, doe2024madeup" in said.err
    assert "no work 'li2024' in" in new(run, clone, paper="li2024", from_bib=bib).err
    assert new(run, clone, paper="doe2024madeup", from_bib=bib).code == 0
    assert "doe2025other" not in (clone / "papers.bib").read_text("utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("doe2024madeup", "chen2024fastv"), "papers.bib has 'chen2024fastv' already"),
        (("2404.99999", "2403.06764v2"), "has this work already; leave --from-bib out and give --paper chen2024fastv"),
        (("{2024}", "{soon}"), "snapkv.bib:5:1: bad-value: 'doe2024madeup' has the year 'soon'"),
        (("title ", "titel "), "lacks title"),
    ],
)  # fmt: skip
def test_a_work_that_is_known_or_broken_is_refused_and_nothing_is_written(
    run, clone: Path, bib: Path, change: tuple[str, str], said: str
) -> None:
    bib.write_text(BIB.replace(*change), "utf-8")
    before = {path: path.read_bytes() for path in clone.rglob("*") if path.is_file()}
    answer = new(run, clone, paper=None, from_bib=bib)
    assert answer.code == 2
    assert said in answer.err
    assert {path: path.read_bytes() for path in clone.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"family": "token-compresion"}, "did you mean 'token-compression'?"),
        ({"acts_at": "llm-layr"}, "did you mean 'llm-layer'?"),
        ({"acts_at": "cache"}, "did you mean 'cache-tokens' or"),
        ({"acts_at": "kv-cache"}, "did you mean 'cache-tokens' or"),
        ({"acts_at": "scheduler"}, "no extension point 'scheduler'; give --described"),
        ({"paper": "chen2024fastw"}, "no paper 'chen2024fastw' in papers.bib; did you mean 'chen2024fastv'"),
        ({"paper": "xyzzy"}, "no paper 'xyzzy' in papers.bib; add it there first or give --from-bib FILE\n"),
        ({"paper": None}, "give --paper"),
        ({"from_bib": "nowhere.bib"}, "nowhere.bib:1:1: unreadable"),
        ({"id_": "fastv"}, "the id 'fastv' is taken"),
        ({"id_": "My Method"}, "is no id"),
        ({"id_": "../../etc"}, "is no id"),
        ({"name": 'Say "hi"'}, "is no name"),
        ({"name": " "}, "is no name"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(run, clone: Path, options: dict, said: str) -> None:
    before = sorted(clone.rglob("*"))
    answer = new(run, clone, **options)
    assert answer.code == 2
    assert said in answer.err
    assert sorted(clone.rglob("*")) == before


def test_all_that_is_wrong_is_said_at_once(run, clone: Path) -> None:
    said = new(run, clone, "Bad Id", family="token-compresion", acts_at=["nowhere", "scheduler"], paper="chen2024fastw")
    for part in ("'Bad Id'", "'token-compresion'", "'nowhere'", "'scheduler'", "'chen2024fastw'"):
        assert part in said.err


def test_a_file_that_is_there_is_never_overwritten(run, clone: Path, bib: Path) -> None:
    test = clone / "tests/reference/techniques/prefilling/test_my_method.py"
    test.parent.mkdir()
    test.write_text("mine")
    before = (clone / "papers.bib").read_bytes()
    answer = new(run, clone, paper=None, from_bib=bib)
    assert answer.code == 2
    assert "test_my_method.py exists already" in answer.err
    assert test.read_text() == "mine"
    assert (clone / "papers.bib").read_bytes() == before
    assert not list(clone.rglob("*my*method.py.*"))
    assert not (clone / "src/lvlm_atlas/reference/techniques/prefilling/my_method.py").exists()
    assert not list(clone.rglob(".*.new"))
