"""A snapshot stands for one exact state of the files; whatever else it might be, it is ignored and rebuilt."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from lvlm_atlas.atlas import records
from lvlm_atlas.atlas import snapshot as module
from lvlm_atlas.atlas.loader import load
from lvlm_atlas.atlas.records import KINDS, TAXONOMY, TECHNIQUES, Papers, Records
from lvlm_atlas.atlas.snapshot import Snapshot
from lvlm_atlas.fault import FaultsError
from lvlm_atlas.rules.check import check
from lvlm_atlas.rules.sample import ALPHA, BETA

SOURCES = (TAXONOMY, TECHNIQUES)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, with snapshots on, also of files that have just been written."""
    monkeypatch.setenv("LVLM_ATLAS_SNAPSHOT", "on")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SETTLED_S", -3600.0)
    return tmp_path / "cache" / "lvlm-atlas" / "snapshots"


def only(cache: Path) -> Path:
    """The one snapshot that is kept."""
    (path,) = cache.glob("*/*.snapshot")
    return path


def is_fresh(root: Path) -> bool:
    """Whether the next command takes the records from the snapshot."""
    return Snapshot(root, SOURCES).read() is not None


def test_records_come_back_equal(root: Path, cache: Path) -> None:
    read = load(root)
    assert is_fresh(root)
    again = load(root)
    assert again.techniques == read.techniques
    assert again.vocabularies == read.vocabularies
    assert list(again.paths.items()) == list(read.paths.items())
    for one, other in zip(read.techniques.values(), again.techniques.values(), strict=True):
        assert type(one) is type(other)
        assert one is not other
        assert one.model_dump_json() == other.model_dump_json()
        assert [type(effect) for effect in one.effects] == [type(effect) for effect in other.effects]


def test_works_come_back_equal(root: Path, cache: Path) -> None:
    read = dict(Papers(root))
    assert Snapshot(root, (Path("papers.bib"),)).read() == read
    (root / "papers.bib").write_text((root / "papers.bib").read_text("utf-8").replace("2025", "2024"), "utf-8")
    assert {paper.year for paper in Papers(root).values()} == {2024}


@pytest.mark.parametrize("folder", KINDS, ids=str)
def test_a_record_that_is_read_by_itself_comes_back_equal(
    folder: Path, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = dict(Records(root, folder))
    monkeypatch.setattr(records, "read_record", None)
    assert dict(Records(root, folder)) == read


def test_a_change_of_a_record_is_seen_and_of_another_is_not(root: Path, cache: Path) -> None:
    folder = next(folder for folder in KINDS if len(Records(root, folder)) and (root / folder).is_dir())
    id_ = next(iter(Records(root, folder)))
    before = Records(root, folder)[id_]
    kept = sorted(cache.glob("*/*"))
    path = root / folder / f"{id_}.yaml"
    (root / ALPHA).write_text((root / ALPHA).read_text("utf-8") + "\n", "utf-8")
    assert Snapshot(root, (path.relative_to(root),)).read() == {id_: before}
    path.write_text(f"{path.read_text('utf-8')}colour: red\n", "utf-8")
    with pytest.raises(FaultsError, match="colour"):
        Records(root, folder)[id_]
    assert sorted(cache.glob("*/*")) == kept


def test_equal_values_are_kept_once_and_keep_their_types(root: Path, cache: Path) -> None:
    load(root)
    snapshot, long = Snapshot(root, SOURCES), "a text that stands there twice"
    snapshot.read()
    snapshot.write({"one": (1, 1.0, True, "1", long), "two": (1.0, True, 1, "1", long[:3] + long[3:])})
    again = Snapshot(root, SOURCES).read()
    assert again is not None
    assert [[type(each) for each in again[name]] for name in ("one", "two")] == [
        [int, float, bool, str, str], [float, bool, int, str, str],
    ]  # fmt: skip
    assert only(cache).read_bytes().count(long.encode()) == 1


def test_a_change_of_one_letter_is_seen_even_under_the_old_time(root: Path, cache: Path) -> None:
    load(root)
    path = root / ALPHA
    before = path.stat()
    path.write_text(path.read_text("utf-8").replace("name: Alpha", "name: Alphb"), "utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert load(root).technique("alpha").name == "Alphb"


def test_files_that_come_go_and_move_are_seen(root: Path, cache: Path) -> None:
    load(root)
    text = (root / BETA).read_text("utf-8")
    (root / BETA).unlink()
    assert list(load(root).techniques) == ["alpha"]
    (root / BETA).with_name("gamma.yaml").write_text(text.replace("id: beta", "id: gamma"), "utf-8")
    assert list(load(root).techniques) == ["alpha", "gamma"]
    (root / ALPHA).rename((root / ALPHA).with_name("alpha.yml"))
    with pytest.raises(FaultsError, match="file-name"):
        load(root)


def test_a_changed_term_is_seen(root: Path, cache: Path) -> None:
    load(root)
    path = root / "taxonomy/bound.yaml"
    path.write_text(path.read_text("utf-8").replace("A word of the sample.", "Another word."), "utf-8")
    assert load(root).term("bound", "compute").definition == "Another word."


def test_each_catalog_has_its_own(root: Path, cache: Path, tmp_path: Path) -> None:
    load(root)
    other = tmp_path / "other"
    root.rename(other)
    load(other)
    assert not is_fresh(root)
    assert load(other).root == other


def test_files_that_have_only_just_changed_are_not_kept(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED_S", 2.0)
    load(root)
    assert not list(cache.glob("*"))


def test_what_changes_while_it_is_read_is_not_kept(root: Path, cache: Path) -> None:
    snapshot = Snapshot(root, SOURCES)
    assert snapshot.read() is None
    techniques = load(root).techniques
    (root / ALPHA).write_text((root / ALPHA).read_text("utf-8") + "\n", "utf-8")
    snapshot.write(dict(techniques))
    assert Snapshot(root, SOURCES).read() is None


def test_catalogs_with_faults_or_drafts_are_not_kept(root: Path, cache: Path) -> None:
    text = (root / BETA).read_text("utf-8")
    (root / BETA).write_text(text.replace("query_aware: false", "query_aware: FILL IN"), "utf-8")
    assert load(root).drafts
    assert load(root).drafts
    (root / BETA).write_text(f"{text}colour: red\n", "utf-8")
    for _ in range(2):
        with pytest.raises(FaultsError):
            load(root)
    assert not list(cache.glob("*"))


def test_check_reads_the_files_themselves(root: Path, cache: Path) -> None:
    load(root)
    snapshot = Snapshot(root, SOURCES)
    kept = snapshot.read()
    assert kept is not None
    kept.pop(BETA)
    snapshot.write(kept)  # a snapshot that lies
    assert list(load(root).techniques) == ["alpha"]
    assert check(root) == ()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: raw[:-1],
        lambda raw: raw[:100],
        lambda raw: raw[:-200] + bytes([raw[-200] ^ 1]) + raw[-199:],
        lambda raw: raw.replace(b"lvlm-atlas", b"lvlm-fatal", 1),
        lambda raw: b"\x00" * len(raw),
        lambda raw: raw + b"more",
    ],
)
def test_a_corrupted_snapshot_is_harmless_and_rebuilt(root: Path, cache: Path, spoil: Any) -> None:
    read = load(root)
    path = only(cache)
    path.write_bytes(spoil(path.read_bytes()))
    assert not is_fresh(root)
    assert load(root).techniques == read.techniques
    assert is_fresh(root)


def forged(root: Path, cache: Path, content: object) -> None:
    """Put other content under a right head."""
    load(root)
    snapshot = Snapshot(root, SOURCES)
    snapshot.read()
    snapshot.write({"forged": content})
    assert b"forged" in only(cache).read_bytes()


class _Opens:
    """Would make a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [os.system, pickle.loads, Path("/"), Snapshot, load])
def test_a_snapshot_can_name_nothing_but_records(root: Path, cache: Path, content: object) -> None:
    forged(root, cache, content)
    assert not is_fresh(root)
    assert list(load(root).techniques) == ["alpha", "beta"]


def test_a_snapshot_calls_nothing(root: Path, cache: Path, tmp_path: Path) -> None:
    forged(root, cache, _Opens(tmp_path / "touched"))
    load(root)
    assert not (tmp_path / "touched").exists()


def test_a_snapshot_that_others_could_have_written_is_ignored(root: Path, cache: Path) -> None:
    load(root)
    only(cache).chmod(0o660)
    assert not is_fresh(root)
    only(cache).chmod(0o600)
    assert is_fresh(root)
    only(cache).parent.chmod(0o777)
    assert not is_fresh(root)
    load(root)
    only(cache).parent.chmod(0o700)
    assert is_fresh(root)


def test_a_snapshot_of_another_user_is_ignored(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(root)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert not is_fresh(root)


def test_a_link_is_not_followed(root: Path, cache: Path, tmp_path: Path) -> None:
    load(root)
    path = only(cache)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert not is_fresh(root)


def test_a_cache_that_cannot_be_written_harms_nothing(root: Path, cache: Path) -> None:
    cache.parent.parent.write_text("a file")
    assert list(load(root).techniques) == ["alpha", "beta"]


def test_it_can_be_turned_off(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(root)
    monkeypatch.setenv("LVLM_ATLAS_SNAPSHOT", "off")
    assert not is_fresh(root)
    only(cache).unlink()
    load(root)
    assert not list(cache.glob("*/*"))


def test_only_the_newest_catalogs_are_kept(root: Path, cache: Path) -> None:
    for number in range(20):
        folder = cache / f"{number:08x}"
        folder.mkdir(parents=True, mode=0o700)
        (folder / "0.snapshot").write_bytes(b"old")
        os.utime(folder, (number, number))
    left = cache / f"{19:08x}" / "1.new"
    left.touch()
    os.utime(left, (0, 0))
    load(root)
    assert len(list(cache.glob("*"))) == module.KEPT
    assert is_fresh(root)
    assert not list(cache.glob("*/*.new"))


def test_what_an_older_version_kept_is_dropped(root: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    old = cache.parent / "00000000.snapshot"
    old.touch()
    load(root)
    assert not old.exists()
