"""The operators that are timed do the work that is counted, and rows that are there are not timed again."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lvlm_atlas.lab.kernels import MOST_FLOP, Case, cases, measured
from lvlm_atlas.schema.runtime import Kernel

CPU = torch.device("cpu")
SMALL = [case for case in cases("cpu") if case.flop < 1.2e8]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.key)
def test_a_case_computes_what_it_counts(case: Case) -> None:
    run = case.build(CPU, torch.float32)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    counted = counter.get_total_flops()
    if case.op == "attention":  # counted under the mask, which the counter knows nothing of
        counted *= (case.shape["length"] + 1) / (2 * case.shape["length"])
    assert counted == pytest.approx(case.flop)


def test_every_kind_that_decides_a_request_is_covered_on_a_gpu() -> None:
    kinds = {case.op for case in cases("cuda")}
    wanted: set[Kernel] = {
        "linear", "grouped", "attention", "cache", "encoder-attention", "window-attention", "elementwise"
    }  # fmt: skip
    assert kinds == wanted
    assert {case.shape["width"] for case in cases("cuda") if case.op == "window-attention"} == {64, 80, 128}
    assert max(case.flop for case in cases("cpu")) <= MOST_FLOP["cpu"]


def test_rows_that_are_there_are_not_timed_again() -> None:
    every = [case.key for case in cases("cpu")]
    left = min(cases("cpu"), key=lambda case: case.element)
    (row,) = measured("cpu", "float32", done=[key for key in every if key != left.key])
    assert (row.op, row.shape) == (left.op, left.shape)
    assert row.time_s > 0
    assert row.byte == left.element * 4
    assert row.runs >= 5
