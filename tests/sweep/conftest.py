"""One small sweep that most tests look at, and what compares tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import dataset

from lvlm_atlas.sweep import Summary, sweep

Read = Callable[[Path], pa.Table]


@pytest.fixture(scope="session")
def read() -> Read:
    """Reads all rows of some results, in the order of their files."""

    def read(out: Path) -> pa.Table:
        files = [out] if out.is_file() else sorted(out.glob("part-*.parquet"))
        return dataset.dataset(files, format="parquet").to_table()

    return read


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Arguments of a sweep over points of every kind: fine, refused for their video, in conflict, too big."""
    return {
        "models": ["qwen2.5-vl-7b", "deepseek-vl2-tiny"],
        "hardware": ["h200-sxm", "l4"],
        "workloads": ["images-20", "video-60s"],
        "stacks": ["none", "fastv:keep_ratio=0.25|0.5+kivi", "look-m+xattention"],
        "batches": [1, 64],
        "part_points": 7,
    }


@pytest.fixture(scope="session")
def swept(small: dict[str, Any], read: Read, tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, pa.Table]:
    """That sweep, by one process, without interruption."""
    summary = sweep(tmp_path_factory.mktemp("sweep") / "results", **small, workers=1)
    return summary, read(summary.out)
