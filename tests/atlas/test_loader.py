"""A root is loaded as a whole, in any order of files, and stray files are told."""

import subprocess
import sys
from pathlib import Path

import pytest

from lvlm_atlas.atlas.loader import inspect, load
from lvlm_atlas.atlas.shelves import UnknownIdError
from lvlm_atlas.fault import FaultsError
from lvlm_atlas.rules.sample import ALPHA, BETA, RUN, as_yaml, sound, write


def test_a_sound_root_loads_whole(root: Path) -> None:
    atlas = load(root)
    assert list(atlas.techniques) == ["alpha", "beta"]
    assert list(atlas.measurements) == ["first-run"]
    assert set(atlas.vocabularies) == {Path(name).stem for name in sound() if name.startswith("taxonomy/")}
    assert atlas.papers["doe2025alpha"].authors == ("Doe, Jane", "Roe, Richard")
    assert atlas.paths["alpha"] == Path(ALPHA)
    assert atlas.technique("ALPHA-pruning").id == "alpha"


def test_the_order_in_which_files_were_written_does_not_matter(tmp_path: Path) -> None:
    files = sound()
    one = load(write(files, tmp_path / "one"))
    two = load(write(dict(reversed(files.items())), tmp_path / "two"))
    assert list(one.techniques) == list(two.techniques)
    assert list(one.vocabularies) == list(two.vocabularies)
    assert one.techniques == two.techniques
    assert one.vocabularies == two.vocabularies


def test_loading_raises_every_fault_at_once(root: Path) -> None:
    (root / ALPHA).write_text("a: [")
    (root / BETA).write_text("b: {")
    with pytest.raises(FaultsError) as caught:
        load(root)
    assert [str(fault.path) for fault in caught.value.faults] == [BETA, ALPHA]


def test_a_draft_is_left_out_and_named_and_keeps_nothing_else_away(root: Path) -> None:
    text = (root / BETA).read_text("utf-8")
    (root / BETA).write_text(text.replace("query_aware: false", "query_aware: FILL IN true or false"), "utf-8")
    atlas = load(root)
    assert list(atlas.techniques) == ["alpha"]
    assert atlas.drafts == {"beta": Path(BETA)}
    with pytest.raises(UnknownIdError, match=r"'beta' is a draft; `lvlm-atlas check catalog/techniques/.*beta.yaml`"):
        atlas.technique("beta")


def test_a_draft_with_other_faults_is_no_draft(root: Path) -> None:
    text = (root / BETA).read_text("utf-8").replace("query_aware: false", "query_aware: FILL IN true or false")
    (root / BETA).write_text(f"{text}colour: red\n", "utf-8")
    with pytest.raises(FaultsError, match="unknown-key"):
        load(root)


def test_a_vocabulary_with_a_place_to_fill_in_is_a_fault(root: Path) -> None:
    path = root / "taxonomy/stage.yaml"
    path.write_text(path.read_text("utf-8").replace("order: 1", "order: FILL IN"), "utf-8")
    with pytest.raises(FaultsError, match="placeholder"):
        load(root)


def test_what_is_sound_can_be_inspected_beside_what_is_not(root: Path) -> None:
    (root / ALPHA).write_text("a: [")
    inspection = inspect(root)
    assert list(inspection.atlas.techniques) == ["beta"]
    assert inspection.unread == {Path(ALPHA)}


def test_redirects_are_followed(root: Path) -> None:
    (root / BETA).with_name("old.yaml").write_text("id: old\nmoved: older\n")
    (root / BETA).with_name("older.yaml").write_text("id: older\nmoved: beta\n")
    (root / BETA).with_name("both.yaml").write_text("id: both\nsplit: [alpha, beta]\n")
    atlas = load(root)
    assert atlas.technique("old").id == "beta"
    assert atlas.redirects["both"] == ("alpha", "beta")


@pytest.mark.parametrize("name", ["alpha.yml", "Alpha.yaml", "notes.txt", "alpha.json", "a b.yaml", "alpha.yaml~"])
def test_a_file_that_no_record_is_read_from_is_told(root: Path, name: str) -> None:
    (root / ALPHA).with_name(name).write_text("id: x\n")
    (fault,) = inspect(root).faults
    assert fault.rule == "file-name"


def test_a_file_name_that_is_not_text_is_told_on_one_line(root: Path) -> None:
    (root / ALPHA).with_name("x\ny\udcff.yaml").write_text("id: x\n")
    (fault,) = inspect(root).faults
    assert fault.rule == "file-name"
    str(fault).encode()
    assert "\n" not in str(fault)


@pytest.mark.parametrize("name", [".gitkeep", "README.md", ".DS_Store"])
def test_files_that_do_no_harm_are_left_alone(root: Path, name: str) -> None:
    (root / ALPHA).with_name(name).write_text("words")
    assert inspect(root).faults == ()


def test_nothing_outside_the_root_is_read(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "gamma.yaml").write_text(as_yaml(sound()[ALPHA]))
    (root / "catalog/techniques/linked").symlink_to(elsewhere)
    (root / BETA).unlink()
    (root / BETA).symlink_to(elsewhere / "gamma.yaml")
    inspection = inspect(root)
    assert [fault.rule for fault in inspection.faults] == ["symbolic-link", "symbolic-link"]
    assert list(inspection.atlas.techniques) == ["alpha"]


def test_a_catalog_without_measurements_is_sound(root: Path) -> None:
    (root / RUN).unlink()
    (root / RUN).parent.rmdir()
    assert inspect(root).faults == ()


def test_an_empty_folder_lacks_a_taxonomy_and_a_bibliography(tmp_path: Path) -> None:
    assert {(str(f.path), f.rule) for f in inspect(tmp_path).faults} == {
        ("taxonomy", "missing-file"), ("papers.bib", "missing-file"),
    }  # fmt: skip


def test_a_missing_vocabulary_is_named(root: Path) -> None:
    (root / "taxonomy/need.yaml").unlink()
    (fault,) = inspect(root).faults
    assert (fault.rule, "'need'" in fault.message) == ("missing-vocabulary", True)


def test_the_bibliography_is_read_at_first_use(root: Path) -> None:
    (root / "papers.bib").write_text("@misc{x")
    papers = load(root).papers
    with pytest.raises(FaultsError, match="bibtex-syntax"):
        len(papers)


def test_loading_imports_nothing_heavy(root: Path) -> None:
    code = (
        "import sys, pathlib; from lvlm_atlas.atlas.loader import load; load(pathlib.Path(sys.argv[1]));"
        "heavy = {'torch', 'numpy', 'networkx', 'jinja2', 'bibtexparser'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(root)], check=True)


def test_the_package_has_what_it_offers_and_imports_none_of_it_before() -> None:
    code = (
        "import sys, lvlm_atlas as package; early = [name for name in sys.modules if name.startswith('lvlm_atlas.')];"
        "assert not early, early; assert set(package.__all__) <= set(dir(package));"
        "assert all(callable(getattr(package, name)) for name in package.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
