"""Laws of kernels are found again in rows that obey them, and say how far rows that do not are off."""

from __future__ import annotations

import pytest

from lvlm_atlas.cli.kernels import SHORT
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.schema.calibration import Calibration, KernelLaw, Row
from lvlm_atlas.specs.laws import laws, predicted_s

TRUTH = KernelLaw(op="linear", dtype="bfloat16", flop_s=4e14, byte_s=2e12, start_us=6.0, rows=1, residual=0.0)


def rows(noise: float = 0.0) -> list[Row]:
    """Rows of small and large products, each second one slower by a share."""
    found = []
    for place, (flop, byte) in enumerate([(1e6, 1e6), (1e8, 5e7), (1e9, 2e8), (1e11, 1e8), (1e12, 3e8), (3e12, 5e8)]):
        row = Row(
            op="linear", dtype="bfloat16", shape={"rows": place + 1}, flop=flop, byte=byte, time_s=1.0, spread=0, runs=5
        )
        time_s = predicted_s(TRUTH, row) * (1 + noise * (place % 2))
        found.append(row.model_copy(update={"time_s": time_s}))
    return found


def test_a_law_is_found_again() -> None:
    (law,) = laws(rows())
    assert law.flop_s == pytest.approx(4e14, rel=0.01)
    assert law.byte_s == pytest.approx(2e12, rel=0.01)
    assert law.start_us == pytest.approx(6.0, rel=0.02)
    assert law.residual < 0.01


def test_rows_that_no_law_explains_leave_a_residual() -> None:
    (law,) = laws(rows(noise=1.5))
    assert law.residual > 0.15


def test_kinds_and_types_have_laws_of_their_own_and_too_few_rows_none() -> None:
    other = [row.model_copy(update={"op": "cache"}) for row in rows()[:2]]
    twin = [row.model_copy(update={"dtype": "float16", "time_s": 2 * row.time_s}) for row in rows()]
    found = {(law.op, law.dtype): law for law in laws([*rows(), *other, *twin])}
    assert set(found) == {("linear", "bfloat16"), ("linear", "float16")}
    assert found["linear", "float16"].flop_s == pytest.approx(2e14, rel=0.02)


@pytest.mark.parametrize("record", Planner().atlas.calibrations.values(), ids=lambda each: each.id)
def test_laws_of_a_record_follow_from_its_rows(record: Calibration) -> None:
    found = {(each.op, each.dtype): each for each in laws(record.rows)}
    assert found.keys() == {(each.op, each.dtype) for each in record.laws}
    for law in record.laws:
        again = found[law.op, law.dtype]
        assert (again.rows, again.residual) == (law.rows, pytest.approx(law.residual, abs=0.002))
        assert (again.flop_s, again.byte_s) == pytest.approx((law.flop_s, law.byte_s), rel=0.02)


def test_kernels_of_no_record_beat_the_peaks_of_their_device() -> None:
    for record in Planner().atlas.calibrations.values():
        device = Planner().device(record.hardware) if record.hardware else None
        for row in record.rows if device else ():
            assert device is not None
            peak = device.peak_flop_s[SHORT[row.dtype]]
            assert row.time_s >= row.flop / peak * 0.99, (record.id, row)
