"""Python in the page: what is fetched, refused and packed, and what a page calls."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.cli.in_page import run
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.site.python import fetch as fetching
from lvlm_atlas.site.python.bundle import FOLDER, PROGRAM, RUNTIME, bundle
from lvlm_atlas.site.python.fetch import fetch, kept
from lvlm_atlas.site.python.pins import Pins, pins

PINNED = pins(data_root() / "site")


def made_up(folder: Path) -> Pins:
    """Files by the names of the pins, and pins by which they are known."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / PINNED.runtime_file, "w:gz") as packed:
        for name in (*RUNTIME, "pyodide.mjs.map"):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = 1
            packed.addfile(member, io.BytesIO(b"x"))
    with zipfile.ZipFile(folder / PINNED.core_file, "w") as wheel:
        wheel.writestr("pydantic_core/__init__.py", "made up")
    known = {
        name: hashlib.new(kind, (folder / file).read_bytes()).hexdigest()
        for name, kind, file in (
            ("pyodide_sha512", "sha512", PINNED.runtime_file), ("core_sha256", "sha256", PINNED.core_file),
        )
    }  # fmt: skip
    return replace(PINNED, **known)


def test_what_is_pinned_is_what_the_installed_pydantic_asks_for(tmp_path: Path, root: Path) -> None:
    with pytest.raises(AtlasError, match=r"pydantic asks for pydantic-core.*0\.0\.1 is pinned"):
        bundle(root, tmp_path, replace(PINNED, core="0.0.1"), tmp_path / "site")


def test_files_of_another_hash_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "lvlm-atlas" / f"python-{PINNED.pyodide}-{PINNED.core}"
    wanted = made_up(folder)
    assert kept(wanted) == fetch(wanted) == folder
    (folder / PINNED.core_file).write_bytes(b"another")
    assert kept(wanted) is None
    with pytest.raises(AtlasError, match="sha256"):
        wanted.require_intact(folder)


def test_without_npm_a_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fetching.shutil, "which", lambda _: None)
    with pytest.raises(AtlasError, match=r"install Node\.js, or --no-python"):
        fetch(PINNED)


def test_two_bundles_are_the_same_and_hold_the_program_and_all_that_it_imports(tmp_path: Path, root: Path) -> None:
    wanted = made_up(tmp_path / "fetched")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        bundle(root, tmp_path / "fetched", wanted, tmp_path / name)
    one, two = ((tmp_path / name / FOLDER / PROGRAM).read_bytes() for name in ("one", "two"))
    assert one == two
    assert {file.name for file in (tmp_path / "one" / FOLDER).iterdir()} == {*RUNTIME, PROGRAM}
    with zipfile.ZipFile(io.BytesIO(one)) as program:
        names = {*program.namelist()}
        assert program.read("pydantic_core/__init__.py") == b"made up"
    packages = {name.split("/")[0].removesuffix(".py") for name in names}
    assert {"lvlm_atlas", "pydantic", "typer", "yaml", "typing_extensions"} <= packages
    assert not packages & {"torch", "networkx", "jinja2"}
    assert "lvlm_atlas/_data/atlas.pack" in names


def test_a_page_is_told_what_a_terminal_is_told() -> None:
    code, out, err = run("lvlm-atlas query 'stage:decoding training:none' -f ids  # a comment", 80)
    assert (code, err, "kivi" in out.split()) == (0, "", True)
    code, out, err = run("estimate -m nothing -d l40s", 80)
    assert (code, out, err.startswith("lvlm-atlas: no model 'nothing'")) == (2, "", True)
    assert run("show 'fastv", 80)[0] == 2
