"""FLOPs of a computation, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

Result = TypeVar("Result")


def count_flop(compute: Callable[[], Result]) -> tuple[Result, int]:
    """What a computation returns, and the FLOPs of its matrix products, convolutions and attention.

    A multiply-add counts as two. What works element by element, pools or interpolates counts as nothing.
    """
    with FlopCounterMode(display=False, custom_mapping=_ON_CPU) as counter:
        result = compute()
    return result, counter.get_total_flops()


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """FLOPs of fused attention, from the shapes of its operands: scores and their sums of values."""
    return int(2 * query[:-1].numel() * key[-2] * (query[-1] + value[-1]))


_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""Fused attention of the CPU, which torch's counter leaves out."""
