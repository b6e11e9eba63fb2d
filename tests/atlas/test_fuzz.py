"""Whatever a file holds, checking gives faults or none; it never raises."""

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from lvlm_atlas import load
from lvlm_atlas.atlas.bibtex import read_papers
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.rules.check import check
from lvlm_atlas.rules.sample import ALPHA, sound, write
from lvlm_atlas.specs.stack import parse

_spec = importlib.util.spec_from_file_location("strategies", Path(__file__).parents[1] / "strategies.py")
assert _spec
assert _spec.loader
strategies: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(strategies)


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(sound(), tmp_path_factory.mktemp("fuzz"))


SLOW_S = 5.0
"""Processor time in which anything is answered."""


def _check(root: Path, path: str, content: bytes) -> None:
    before, start = (root / path).read_bytes(), time.process_time()
    try:
        (root / path).write_bytes(content)
        for fault in check(root):
            shown = str(fault)
            assert shown.isprintable()
            text = (root / fault.path).read_text("utf-8", "replace") if (root / fault.path).is_file() else ""
            assert 1 <= fault.line <= text.count("\n") + 2
            assert fault.column >= 1
    finally:
        (root / path).write_bytes(before)
    assert time.process_time() - start < SLOW_S


def fuzz(examples: int) -> settings:
    """So many cases, or more where the environment asks for them: `make fuzz`."""
    return settings(
        max_examples=max(examples, int(os.environ.get("FUZZ_CASES", "0"))),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@fuzz(100)
@given(content=strategies.bytes_of_a_file)
def test_any_bytes_give_faults(shared_root: Path, content: bytes) -> None:
    _check(shared_root, ALPHA, content)


@pytest.mark.parametrize("path", strategies.RECORDS)
def test_any_slip_of_the_hand_gives_faults_at_most(shared_root: Path, path: str) -> None:
    @fuzz(20)
    @given(text=strategies.mutated_texts(path))
    def checked(text: str) -> None:
        _check(shared_root, path, text.encode("utf-8", "surrogatepass"))

    checked()


@pytest.mark.parametrize("path", strategies.RECORDS)
def test_any_data_give_faults_at_most(shared_root: Path, path: str) -> None:
    @fuzz(25)
    @given(data=strategies.distorted_records(path))
    def checked(data: object) -> None:
        _check(shared_root, path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode("utf-8", "replace"))

    checked()


@pytest.fixture(scope="module")
def kb(shared_root: Path) -> KnowledgeBase:
    return load(shared_root)


@fuzz(4000)
@given(text=strategies.queries)
def test_any_query_has_an_answer_or_is_refused_in_a_few_lines(kb: KnowledgeBase, text: str) -> None:
    answer, refusal = _tried(lambda: kb.query(text))
    assert len(refusal.splitlines()) <= 5  # the query, and a mark below where it goes wrong
    assert all(technique.id in kb.atlas.techniques for technique in answer or ())


@fuzz(3000)
@given(text=strategies.stack_texts)
def test_any_stack_is_read_or_refused_in_one_line(kb: KnowledgeBase, text: str) -> None:
    for part in text.split("+"):
        choice, refusal = _tried(lambda part=part: parse(kb, part))
        assert "\n" not in refusal
        assert choice is None or choice.technique.id in kb.atlas.techniques


def _tried(what: Callable[[], Any]) -> tuple[Any, str]:
    """What a call gives, or why it is refused."""
    try:
        return what(), ""
    except AtlasError as error:
        return None, str(error)


@fuzz(400)
@given(text=strategies.bibtex_like)
def test_any_bibtex_gives_faults_at_most(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.getbasetemp()
    (root / "papers.bib").write_bytes(text.encode("utf-8", "surrogatepass"))
    for fault in read_papers(root)[1]:
        assert "\n" not in str(fault)


def test_a_synthetic_entry_is_sound(root: Path) -> None:
    write(strategies.synthetic_files(3), root)
    assert check(root) == ()
