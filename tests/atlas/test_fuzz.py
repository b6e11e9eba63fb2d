"""Whatever a file holds, checking gives faults or none; it never raises."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from lvlm_atlas.atlas.bibliography import read_papers
from lvlm_atlas.rules.check import check
from lvlm_atlas.rules.sample import ALPHA, sound, write

_spec = importlib.util.spec_from_file_location("strategies", Path(__file__).parents[1] / "strategies.py")
assert _spec
assert _spec.loader
strategies: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(strategies)


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(sound(), tmp_path_factory.mktemp("fuzz"))


def _check(root: Path, content: bytes) -> None:
    (root / ALPHA).write_bytes(content)
    for fault in check(root):
        shown = str(fault)
        shown.encode()
        assert "\n" not in shown


fuzz = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@fuzz
@given(content=strategies.bytes_of_a_file)
def test_any_bytes_give_faults(shared_root: Path, content: bytes) -> None:
    _check(shared_root, content)


@fuzz
@given(text=strategies.mutated_texts())
def test_any_slip_of_the_hand_gives_faults_at_most(shared_root: Path, text: str) -> None:
    _check(shared_root, text.encode("utf-8", "surrogatepass"))


@fuzz
@given(data=strategies.distorted_entries())
def test_any_data_give_faults_at_most(shared_root: Path, data: object) -> None:
    _check(shared_root, yaml.safe_dump(data, sort_keys=False).encode())


@fuzz
@given(text=strategies.bibtex_like)
def test_any_bibtex_gives_faults_at_most(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.getbasetemp()
    (root / "papers.bib").write_bytes(text.encode("utf-8", "surrogatepass"))
    for fault in read_papers(root)[1]:
        assert "\n" not in str(fault)


def test_a_synthetic_entry_is_sound(root: Path) -> None:
    write(strategies.synthetic_files(3), root)
    assert check(root) == ()
