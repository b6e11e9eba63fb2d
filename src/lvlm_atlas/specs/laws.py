"""Derives the laws of kernels from measured rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import log
from statistics import median

from lvlm_atlas.schema.calibration import KernelLaw, Row
from lvlm_atlas.specs.least_squares import Values, minimised

FEWEST_ROWS = 3
"""Rows that a law of three numbers needs."""


def laws(rows: Iterable[Row]) -> list[KernelLaw]:
    """The law of each kind of operator and type of numbers with rows enough: least squares of logarithms."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.op, row.dtype].append(row)
    return [_law(group) for group in groups.values() if len(group) >= FEWEST_ROWS]


def predicted_s(law: KernelLaw, row: Row) -> float:
    """What a law says of a row."""
    return max(row.flop / law.flop_s, row.byte / law.byte_s) + law.start_us / 1e6


def _law(rows: Sequence[Row]) -> KernelLaw:
    fastest, widest = (max(getattr(row, name) / row.time_s for row in rows) for name in ("flop", "byte"))
    least_s = min(row.time_s for row in rows)
    start = {"flop_s": max(fastest, 1.0), "byte_s": widest, "start_s": least_s / 2}
    limits = {
        "flop_s": (start["flop_s"] / 10, start["flop_s"] * 3), "byte_s": (widest / 10, widest * 3),
        "start_s": (least_s / 1e3, least_s),
    }  # fmt: skip

    def errors(values: Values) -> list[float]:
        return [log(_time_s(values, row) / row.time_s) for row in rows]

    found = minimised(errors, start, limits)
    off = median(abs(_time_s(found, row) / row.time_s - 1) for row in rows)
    return KernelLaw(
        op=rows[0].op, dtype=rows[0].dtype, flop_s=_rounded(found["flop_s"]), byte_s=_rounded(found["byte_s"]),
        start_us=_rounded(found["start_s"] * 1e6), rows=len(rows), residual=float(f"{off:.3f}"),
    )  # fmt: skip


def _time_s(values: Mapping[str, float], row: Row) -> float:
    return max(row.flop / values["flop_s"], row.byte / values["byte_s"]) + values["start_s"]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
