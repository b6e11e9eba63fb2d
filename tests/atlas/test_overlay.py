"""A catalog of one's own on top of the packaged one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import lvlm_atlas
from lvlm_atlas import AtlasError, Planner
from lvlm_atlas.atlas.editor_schema import write_editor_schemas
from lvlm_atlas.atlas.overlay import merged, origin, resolved
from lvlm_atlas.cli.faults import repair_faults
from lvlm_atlas.drafts.technique import scaffold
from lvlm_atlas.rules.check import check
from lvlm_atlas.rules.fix import repairs


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lvlm-atlas" / "overlays"


@pytest.fixture
def mine(tmp_path: Path, checkout: Path) -> Path:
    """A folder with a model of its own, and a technique of the package changed."""
    root = tmp_path / "mine"
    (root / "catalog" / "models").mkdir(parents=True)
    (root / "atlas.yaml").write_text("extends: lvlm-atlas\n", "utf-8")
    text = (checkout / "catalog" / "models" / "qwen2.5-vl-7b.yaml").read_text("utf-8")
    text = text.replace("id: qwen2.5-vl-7b\nname: Qwen2.5-VL-7B", "id: in-house-7b\nname: In-house 7B")
    text = text.replace("hf_id: Qwen/Qwen2.5-VL-7B-Instruct", "hf_id: in-house/vlm-7b")
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("aliases:", "# yaml"))) + "\n"
    (root / "catalog" / "models" / "in-house-7b.yaml").write_text(text, "utf-8")
    theirs = next((checkout / "catalog" / "techniques").rglob("fastv.yaml"))
    ours = root / theirs.relative_to(checkout)
    ours.parent.mkdir(parents=True)
    ours.write_text(theirs.read_text("utf-8").replace("name: FastV\n", "name: FastV (ours)\n"), "utf-8")
    return root


def test_both_catalogs_are_read_as_one_and_ones_own_files_count(mine: Path, checkout: Path) -> None:
    kb, packaged = lvlm_atlas.load(mine), lvlm_atlas.load(checkout)
    assert kb["fastv"].name == "FastV (ours)"
    assert {t.id for t in kb} == {t.id for t in packaged}
    assert {*kb.atlas.models} == {*packaged.atlas.models, "in-house-7b"}
    assert kb.edition.digest != packaged.edition.digest
    plain = Planner(mine).estimate("in-house-7b", "l40s", stack="fastv")
    assert plain.ttft_s == Planner(checkout).estimate("qwen2.5-vl-7b", "l40s", stack="fastv").ttft_s


def test_it_is_sound_and_faults_are_named_where_people_wrote_them(mine: Path) -> None:
    root = resolved(mine)
    assert check(root) == ()
    file = mine / "catalog" / "models" / "in-house-7b.yaml"
    file.write_text(file.read_text("utf-8") + "surprise: 1\n", "utf-8")
    (fault,) = check(resolved(mine))
    assert origin(resolved(mine), fault.path) == file
    assert origin(resolved(mine), Path("taxonomy/stages.yaml")).is_file()


def test_what_is_merged_is_kept_until_a_file_changes(mine: Path, cache: Path) -> None:
    first = resolved(mine)
    assert resolved(mine) == first
    (mine / "papers.bib").write_text("@misc{me2026,\n  title = {Ours},\n}\n", "utf-8")
    second = resolved(mine)
    assert second != first
    assert not first.exists()
    assert len([*cache.glob("*/*")]) == 1
    works = (second / "papers.bib").read_text("utf-8")
    assert works.startswith("@misc{me2026,")
    assert works.count("{chen2024fastv,") == 1


def test_of_two_works_of_one_key_ones_own_counts(mine: Path) -> None:
    (mine / "papers.bib").write_text("@misc{chen2024fastv,\n  title = {Ours},\n}", "utf-8")
    works = (resolved(mine) / "papers.bib").read_text("utf-8")
    assert works.count("{chen2024fastv,") == 1
    assert "{Ours}" in works


@pytest.mark.parametrize(
    "text",
    ["extends: [a]\n", "extends: nowhere\n", "extends: .\n", "more: 1\n", "", "a: b: c\n", "extends: x\nand: y\n"],
)
def test_a_file_that_names_no_catalog_is_one_clear_error(mine: Path, text: str) -> None:
    (mine / "atlas.yaml").write_text(text, "utf-8")
    with pytest.raises(AtlasError, match=r"atlas\.yaml: "):
        lvlm_atlas.load(mine)


def test_an_overlay_extends_another_folder_too(mine: Path, checkout: Path) -> None:
    whole = mine.parent / "whole"
    for name in ("taxonomy", "catalog"):
        shutil.copytree(checkout / name, whole / name)
    shutil.copy(checkout / "papers.bib", whole)
    next(whole.rglob("smolvlm-2.2b.yaml")).unlink()
    (mine / "atlas.yaml").write_text("extends: ../whole\n", "utf-8")
    assert "smolvlm-2.2b" not in lvlm_atlas.load(mine).atlas.models


def test_the_command_line_reads_it_and_writes_into_it(mine: Path, capsys, monkeypatch) -> None:
    from lvlm_atlas.cli import main

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["lvlm-atlas", *arguments, "--root", str(mine)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    code, out, _ = run("models", "in-house-7b", "-f", "json")
    assert (code or 0, json.loads(out)[0]["name"]) == (0, "In-house 7B")
    code, out, err = run("check")
    assert (code or 0, out, str(mine) in err) == (0, "", True)
    code, out, _ = run("schema")
    assert code is None
    assert all((mine / line.removeprefix("wrote ")).is_file() for line in out.splitlines())


def test_what_is_written_goes_into_ones_own_folder(mine: Path, cache: Path, tmp_path: Path) -> None:
    bib = tmp_path / "mine.bib"
    bib.write_text(
        "@misc{me2026,\n  title = {Ours},\n  author = {Own, A.},\n  year = {2026},\n  url = {https://example.org/}\n}\n",
        "utf-8",
    )
    written = scaffold(
        resolved(mine), "in-house", family="token-compression", acts_at=["llm-layer"], paper=None, described=True,
        bib=bib,
    )  # fmt: skip
    assert all((mine / path).is_file() for path in written)
    assert not (mine / "taxonomy").exists()
    faults = check(resolved(mine), [merged(resolved(mine), mine / written[0])])
    assert {fault.rule for fault in faults} == {"placeholder"}
    assert {origin(resolved(mine), fault.path) for fault in faults} == {mine / written[0]}
    with pytest.raises(AtlasError, match=f"{mine} is no checkout of the project"):
        scaffold(resolved(mine), "other", family="token-compression", acts_at=["llm-layer"], paper="chen2024fastv")


def test_repairs_and_schemas_go_into_ones_own_folder_too(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next((mine / "catalog" / "techniques").rglob("fastv.yaml"))
    text = file.read_text("utf-8")
    file.write_text(text.replace("acts_at: [llm-layer]", "acts_at: [llm-layer, llm-layer]", 1), "utf-8")
    (repair,) = repairs(resolved(mine))
    assert mine / repair.path == file
    repair_faults(resolved(mine), None)
    assert file.read_text("utf-8") == text
    assert f"--- {file}" in capsys.readouterr().err
    assert all((mine / path).is_file() for path in write_editor_schemas(resolved(mine)))
