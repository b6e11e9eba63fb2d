"""A whole catalog in one file."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.atlas.edition import digest
from lvlm_atlas.atlas.loader import inspect
from lvlm_atlas.atlas.pack import pack, pack_of
from lvlm_atlas.atlas.root import PACK
from lvlm_atlas.rules.check import check
from lvlm_atlas.rules.sample import ALPHA


@pytest.fixture
def packed(root: Path, tmp_path: Path) -> Path:
    """The sample's catalog, packed."""
    folder = tmp_path / "packed"
    folder.mkdir()
    whole = inspect(root)
    (folder / PACK).write_bytes(pack(whole.records, whole.atlas.papers, digest(root)))
    return folder


def test_a_packed_catalog_is_the_same_catalog(root: Path, packed: Path) -> None:
    one, other = load(root).atlas, load(packed).atlas
    assert (one.techniques, one.vocabularies, one.redirects) == (other.techniques, other.vocabularies, other.redirects)
    assert dict(one.papers) == dict(other.papers)
    for shelf in ("models", "hardware", "workloads", "systems", "lists", "measurements"):
        assert dict(getattr(one, shelf)) == dict(getattr(other, shelf))
    assert load(root).edition == load(packed).edition
    assert check(packed) == ()


def test_a_file_beside_it_counts_and_its_faults_are_named(root: Path, packed: Path) -> None:
    text = (root / ALPHA).read_text("utf-8")
    (packed / ALPHA).parent.mkdir(parents=True)
    (packed / ALPHA).write_text(text.replace("name: Alpha", "name: Ours"), "utf-8")
    assert load(packed)["alpha"].name == "Ours"
    assert load(packed).edition != load(root).edition
    (packed / ALPHA).write_text(text.replace("stage: prefilling", "stage: prefiling"), "utf-8")
    (root / ALPHA).write_text(text.replace("stage: prefilling", "stage: prefiling"), "utf-8")
    assert check(packed) == check(root) != ()


def test_a_forged_pack_makes_nothing_but_records(packed: Path) -> None:
    (packed / PACK).write_bytes(pickle.dumps({"records": {"x": Path("x")}, "papers": {}, "digest": ""}))
    with pytest.raises(pickle.UnpicklingError, match="is no record"):
        pack_of(packed)
