"""The wheel, built from the sdist and installed far from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(checkout)],
        check=True, capture_output=True,
    )  # fmt: skip
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and its base dependencies, taken from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "borrowed.pth").write_text(_base_dependencies(folder / "base"))
    return python


def _base_dependencies(folder: Path) -> str:
    """A folder with links to the packages that the base install needs, and to no others."""
    from importlib.metadata import distribution, requires

    folder.mkdir()
    wanted, found = [], set()
    wanted += [need for need in requires("lvlm-atlas") or [] if "extra ==" not in need]
    while wanted:
        name = _name(wanted.pop())
        if name in found:
            continue
        found.add(name)
        dist = distribution(name)
        wanted += [need for need in dist.requires or [] if "extra ==" not in need and _applies(need)]
        for top in {Path(str(file)).parts[0] for file in dist.files or [] if ".." not in str(file)}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(dist.locate_file(top))))
    return f"{folder}\n"


def _name(need: str) -> str:
    from packaging.requirements import Requirement

    return Requirement(need).name


def _applies(need: str) -> bool:
    from packaging.requirements import Requirement

    marker = Requirement(need).marker
    return marker is None or marker.evaluate()


def lvlm_atlas(python: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LVLM"))}
    return subprocess.run(
        [python, "-m", "lvlm_atlas", *arguments], cwd=cwd, capture_output=True, text=True, check=False, env=environment
    )


def test_the_wheel_has_one_top_level_name_and_every_data_file(wheel: Path, checkout: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "lvlm_atlas",
        next(n.split("/")[0] for n in names if "dist-info" in n),
    }
    tracked = subprocess.check_output(
        ["git", "ls-files", "taxonomy", "catalog", "site", "papers.bib"], cwd=checkout, text=True
    )
    wanted = {f"lvlm_atlas/_data/{path}" for path in tracked.split()}
    assert wanted - set(names) == set()


def test_the_wheel_works_away_from_the_checkout(elsewhere: Path, checkout: Path, tmp_path: Path) -> None:
    listed = lvlm_atlas(elsewhere, tmp_path, "list", "--format", "ids")
    assert listed.returncode == 0, listed.stderr
    entries = [path.stem for path in (checkout / "catalog" / "techniques").rglob("*.yaml")]
    assert sorted(listed.stdout.split()) == sorted(entries)
    assert lvlm_atlas(elsewhere, tmp_path, "check").returncode == 0
    shown = lvlm_atlas(elsewhere, tmp_path, "show", "fastv", "--json")
    assert json.loads(shown.stdout)["id"] == "fastv"
    assert lvlm_atlas(elsewhere, tmp_path, "query", "within(fastv, 2)").returncode == 0


@pytest.mark.parametrize("kind", ["models", "hardware", "workloads", "measurements"])
def test_the_wheel_holds_every_record(elsewhere: Path, checkout: Path, tmp_path: Path, kind: str) -> None:
    code = f"from lvlm_atlas.atlas.loader import load; print(*(record.id for record in load().{kind}.values()))"
    read = subprocess.check_output([elsewhere, "-c", code], text=True, cwd=tmp_path)
    assert sorted(read.split()) == sorted(path.stem for path in (checkout / "catalog" / kind).glob("*.yaml"))


@pytest.mark.parametrize(("command", "extra"), [("smoke", "torch"), ("build --no-python", "site")])
def test_a_missing_extra_is_one_clear_error(elsewhere: Path, tmp_path: Path, command: str, extra: str) -> None:
    said = lvlm_atlas(elsewhere, tmp_path, *command.split())
    assert said.returncode == 2
    assert f"pip install 'lvlm-atlas[{extra}]'" in said.stderr
    assert len(said.stderr.splitlines()) == 1


def test_nothing_is_written_into_the_installed_package(elsewhere: Path, tmp_path: Path) -> None:
    said = lvlm_atlas(elsewhere, tmp_path, "schema")
    assert said.returncode == 2
    assert "point --root at a checkout" in said.stderr


def test_the_base_install_is_light(elsewhere: Path) -> None:
    code = "import importlib.util as u; print([n for n in ('torch', 'mkdocs', 'jinja2', 'numpy') if u.find_spec(n)])"
    assert subprocess.check_output([elsewhere, "-c", code], text=True).strip() == "[]"
