"""A catalog of somebody else brings its own references: only runs import them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lvlm_atlas.atlas.loader import load
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.reference import reference_of
from lvlm_atlas.rules.check import check
from lvlm_atlas.rules.sample import ALPHA, as_yaml
from lvlm_atlas.site.source import source_of

PACKAGE = '''
    """References of somebody else."""
    import os
    from dataclasses import dataclass
    from pathlib import Path
    from typing import ClassVar

    from lvlm_atlas.reference.lvlm import Technique

    Path(os.environ["SEEN"]).touch()  # says that somebody imported it


    @dataclass(frozen=True)
    class Half(Technique):
        """Keeps a share of the vision tokens, the first ones."""

        ratio: float = 0.098

        acts_at: ClassVar = ("llm-input",)
        needs: ClassVar = ("visual-features", "modality-mask", "vision-in-sequence")

        def __post_init__(self):
            if not 0 < self.ratio <= 1:
                raise ValueError(f"ratio must lie in (0, 1], got {self.ratio}")

        def llm_input(self, at):
            sequence = at.sequence
            keep = round(self.ratio * sequence.vision_places().shape[1])
            return sequence.keep_vision(sequence.vision_places().argsort(dim=1)[:, :keep]).renumber()
'''


@pytest.fixture
def private(checkout: Path, tmp_path: Path) -> Path:
    """A catalog of one technique, on the real taxonomy, whose reference lies in a package beside it."""
    root = tmp_path / "private"
    shutil.copytree(checkout / "taxonomy", root / "taxonomy")
    shutil.copy(checkout / "papers.bib", root)
    entry = load(checkout).technique("divprune").model_dump(mode="json", by_alias=True, exclude_none=True)
    entry |= {
        "id": "half", "name": "Half", "aliases": [], "reference": "somebodys_methods.halving:Half",
        "interactions": [], "reported": [], "overheads": [], "pitfalls": [], "shipped_in": [],
        "neutral": {"ratio": 1.0}, "algorithm": [{"does": "Keep the first."}], "trials": [{"ratio": 0.25}],
    }  # fmt: skip
    file = root / "catalog/techniques/prefilling/token-compression/half.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(as_yaml(entry), encoding="utf-8")
    return root


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder that holds the package."""
    folder = tmp_path / "code" / "somebodys_methods"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "halving.py").write_text(textwrap.dedent(PACKAGE))
    return folder.parent


def call(tmp_path: Path, *arguments: object, package: Path | None) -> subprocess.CompletedProcess[str]:
    found = [os.environ.get("PYTHONPATH", ""), str(package or "")]
    environment = {**os.environ, "SEEN": str(tmp_path / "seen"), "PYTHONPATH": os.pathsep.join(filter(None, found))}
    command = [sys.executable, "-m", "lvlm_atlas", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)


def test_runs_find_the_package_of_a_private_catalog(private: Path, package: Path, tmp_path: Path) -> None:
    smoked = call(tmp_path, "smoke", "--root", private, "half", package=package)
    assert (smoked.returncode, "half(ratio=0.25): 9 checks passed" in smoked.stdout) == (0, True), smoked.stderr
    verified = call(tmp_path, "verify", "--root", private, "half", package=package)
    assert verified.returncode == 0, verified.stderr
    assert "1 of 1 entries hold" in verified.stderr
    assert (tmp_path / "seen").exists()


def test_a_package_that_is_missing_is_one_clear_error(private: Path, tmp_path: Path) -> None:
    for command in ("smoke", "verify"):
        said = call(tmp_path, command, "--root", private, "half", package=None)
        assert said.returncode == 2
        assert said.stderr.count("\n") == 1
        assert "needs the package 'somebodys_methods', which is not installed" in said.stderr


def test_neither_check_nor_the_pages_import_it(private: Path, package: Path, tmp_path: Path) -> None:
    checked = call(tmp_path, "check", "--root", private, package=package)
    assert "half.yaml" not in checked.stdout
    code = (
        "import sys; from pathlib import Path\n"
        "from lvlm_atlas import load\n"
        "from lvlm_atlas.site.content import Content\n"
        "from lvlm_atlas.site.technique import technique_page\n"
        "content = Content(load(Path(sys.argv[1])))\n"
        "page = technique_page(content, content.atlas.techniques['half'])\n"
        "assert page.context['source'] is None\n"
        "assert not any(name.startswith('somebodys') for name in sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(package)])}
    subprocess.run([sys.executable, "-c", code, str(private)], check=True, env=environment, timeout=300)
    assert not (tmp_path / "seen").exists()
    assert source_of("somebodys_methods.halving:Half") is None


def test_a_reference_of_another_package_may_lie_where_its_owner_likes(root: Path) -> None:
    text = (root / ALPHA).read_text(encoding="utf-8").replace("status: described", "status: implemented")
    (root / ALPHA).write_text(text + "reference: somebodys_methods.halving:Half\n", encoding="utf-8")
    assert check(root) == ()


def test_only_the_top_package_is_looked_for(root: Path) -> None:
    alpha = load(root).technique("alpha")
    described = alpha.model_copy(update={"reference": None})
    with pytest.raises(AtlasError, match="alpha is only described"):
        reference_of(described)
    inside = alpha.model_copy(update={"reference": "lvlm_atlas.no.such:Thing"})
    assert reference_of(inside) == "lvlm_atlas.no.such:Thing"  # the run tells that the module is missing
