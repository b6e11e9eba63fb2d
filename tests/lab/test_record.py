"""Measurement records: whole or not at all, never overwritten, and readable by the loader."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lvlm_atlas.atlas.loader import load
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.record import record
from lvlm_atlas.lab.smoke import WORKLOAD
from lvlm_atlas.rules.check import check
from lvlm_atlas.schema.measurement import SmokeResult


def result(technique: str) -> SmokeResult:
    return SmokeResult(technique=technique, setting={"keep_ratio": 0.5}, passed=("runs", "shapes"))


def test_a_record_is_read_back_as_it_was_written(root: Path) -> None:
    first = next(iter(load(root).techniques))
    (path,) = record(root, WORKLOAD, "cpu", [result(first)])
    measurement = load(root).measurements[path.stem]
    assert measurement.results == (result(first),)
    assert measurement.workload == WORKLOAD
    assert measurement.machine.kind == "cpu"
    assert [fault for fault in check(root) if fault.path.parts[:2] == ("catalog", "measurements")] == []


def test_a_second_record_of_the_day_gets_a_name_of_its_own(root: Path) -> None:
    first = next(iter(load(root).techniques))
    before = set(load(root).measurements)
    paths = [path for _ in range(2) for path in record(root, WORKLOAD, "cpu", [result(first)])]
    assert load(root).measurements.keys() - before == {path.stem for path in paths}
    assert len(set(paths)) == 2


def test_records_written_at_once_are_all_kept(root: Path) -> None:
    first = next(iter(load(root).techniques))
    before = set(load(root).measurements)
    with ThreadPoolExecutor(8) as pool:
        paths = [path for (path,) in pool.map(lambda _: record(root, WORKLOAD, "cpu", [result(first)]), range(8))]
    assert len(set(paths)) == 8
    assert load(root).measurements.keys() - before == {path.stem for path in paths}


def test_more_results_than_a_file_may_hold_become_several_records(root: Path) -> None:
    first = next(iter(load(root).techniques))
    results = [result(first).model_copy(update={"setting": {"keep_ratio": share / 8}}) for share in range(1, 8)]
    paths = record(root, WORKLOAD, "cpu", results, most_byte=700)
    assert len(paths) > 1
    assert all(path.stat().st_size <= 700 for path in paths)
    records = load(root).measurements
    assert [one for path in paths for one in records[path.stem].results] == results


def test_a_root_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "catalog").write_text("in the way")
    with pytest.raises(AtlasError, match="cannot write "):
        record(tmp_path, WORKLOAD, "cpu", [result("x")])
