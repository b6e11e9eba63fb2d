"""Times the operators of a vision-language model on a device, shape by shape, as the engine counts their work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import product
from statistics import median, quantiles

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from lvlm_atlas.schema.calibration import Dtype, Row
from lvlm_atlas.schema.runtime import Kernel

RUN_S = 0.25
"""Seconds for which one shape is timed at most, once it is warm."""
RUNS = (5, 50)
"""Least and most runs that are timed."""
MOST_FLOP = {"cuda": 2e12, "cpu": 1e9}
"""Work of the largest shapes that are timed: a processor would take minutes for those of a GPU."""
SPILL_BYTE = 2**28
"""Weights are read in turn from copies of so many bytes, so that no cache of the device holds them."""


@dataclass(frozen=True, slots=True)
class Case:
    """One operator of one shape."""

    op: Kernel
    shape: dict[str, int]
    flop: float
    element: float
    """Numbers moved: read and written, weights among them."""
    build: Callable[[torch.device, torch.dtype], Callable[[], object]] = field(compare=False)
    """Makes its inputs and gives what runs it."""

    @property
    def key(self) -> str:
        """Names it in a file of rows."""
        return f"{self.op} {' '.join(f'{name}={size}' for name, size in self.shape.items())}"


def cases(device: str) -> list[Case]:
    """The shapes that are timed on a kind of device, small ones first within a kind."""
    found = [*_linear(), *_grouped(), *_attention(), *_cache(), *_encoder(), *_windows(), *_elementwise()]
    return [case for case in found if case.flop <= MOST_FLOP[device]]


def measured(device: str, dtype: Dtype, done: Collection[str] = ()) -> Iterator[Row]:
    """The rows of all cases but those that are done.

    Args:
        device: `cuda` or `cpu`.
        dtype: type of the numbers.
        done: keys of cases that need not run again.
    """
    place, kind = torch.device(device), getattr(torch, dtype)
    for case in cases(device):
        if case.key not in done:
            yield _timed(case, place, kind, dtype)


@torch.inference_mode()
def _timed(case: Case, device: torch.device, kind: torch.dtype, dtype: Dtype) -> Row:
    run = case.build(device, kind)
    first_s = _once_s(run, device)  # compiles, and fills caches of libraries
    first_s = min(first_s, _once_s(run, device))
    runs = max(RUNS[0], min(RUNS[1], math.ceil(RUN_S / max(first_s, 1e-6))))
    times = [_once_s(run, device) for _ in range(runs)]
    low, middle, high = quantiles(times, n=4)[0], median(times), quantiles(times, n=4)[2]
    return Row(
        op=case.op, dtype=dtype, shape=case.shape, flop=case.flop, byte=case.element * kind.itemsize,
        time_s=middle, spread=(high - low) / middle, runs=runs,
    )  # fmt: skip


def _once_s(run: Callable[[], object], device: torch.device) -> float:
    """One run, by the clock of the device."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / 1e3
    before = time.perf_counter()
    run()
    return time.perf_counter() - before


def _random(*shape: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, device=device, dtype=dtype)


def _linear() -> Iterator[Case]:
    for (into, out), rows in product(((1280, 3840), (3584, 3584), (3584, 18944)), (1, 8, 64, 512, 4096)):
        yield Case(
            "linear", {"rows": rows, "into": into, "out": out}, 2 * rows * into * out,
            rows * (into + out) + into * out, _matrix(rows, into, out),
        )  # fmt: skip


def _matrix(rows: int, into: int, out: int) -> Callable[[torch.device, torch.dtype], Callable[[], object]]:
    def build(device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
        x_RD = _random(rows, into, device=device, dtype=dtype)
        copies = max(1, min(8, SPILL_BYTE // (into * out * dtype.itemsize))) if device.type == "cuda" else 1
        weights = [_random(out, into, device=device, dtype=dtype) for _ in range(copies)]
        turn = 0

        def run() -> Tensor:
            nonlocal turn
            turn = (turn + 1) % copies
            return x_RD @ weights[turn].T

        return run

    return build


def _grouped() -> Iterator[Case]:
    for experts, rows, (into, out) in product((8, 64), (2, 32, 128), ((2048, 768),)):

        def build(
            device: torch.device, dtype: torch.dtype, e: int = experts, r: int = rows, i: int = into, o: int = out
        ) -> Callable[[], object]:
            x_ERD, weight_EDO = (
                _random(e, r, i, device=device, dtype=dtype),
                _random(e, i, o, device=device, dtype=dtype),
            )
            return lambda: torch.bmm(x_ERD, weight_EDO)

        yield Case(
            "grouped", {"experts": experts, "rows": rows, "into": into, "out": out}, 2 * experts * rows * into * out,
            experts * (rows * (into + out) + into * out), build,
        )  # fmt: skip


def _attend(
    batch: int, heads: int, queries: int, keys: int, width: int, *, causal: bool
) -> Callable[[torch.device, torch.dtype], Callable[[], object]]:
    def build(device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
        q = _random(batch, heads, queries, width, device=device, dtype=dtype)
        k, v = (_random(batch, heads, keys, width, device=device, dtype=dtype) for _ in range(2))
        return lambda: scaled_dot_product_attention(q, k, v, is_causal=causal)

    return build


def _attention() -> Iterator[Case]:
    """Of a prompt, under the causal mask."""
    heads, width = 28, 128
    for length in (128, 512, 2048, 8192):
        pairs = length * (length + 1) / 2
        yield Case(
            "attention", {"heads": heads, "length": length, "width": width}, 4 * pairs * heads * width,
            4 * length * heads * width, _attend(1, heads, length, length, width, causal=True),
        )  # fmt: skip


def _cache() -> Iterator[Case]:
    """Of one new token over a cache."""
    width = 128
    for heads, keys in product((4, 32), (512, 4096, 16384)):
        yield Case(
            "cache", {"heads": heads, "keys": keys, "width": width}, 4 * keys * heads * width,
            2 * (keys + 1) * heads * width, _attend(1, heads, 1, keys, width, causal=False),
        )  # fmt: skip


def _encoder() -> Iterator[Case]:
    """Of the patches of an image, all with all."""
    heads = 16
    for width, length in product((64, 80, 128), (256, 1024, 4096)):
        yield Case(
            "encoder-attention", {"heads": heads, "length": length, "width": width}, 4 * length**2 * heads * width,
            4 * length * heads * width, _attend(1, heads, length, length, width, causal=False),
        )  # fmt: skip


def _windows() -> Iterator[Case]:
    """Of the patches of an image in windows of 8 x 8."""
    heads, window = 16, 64
    for width, windows in product((64, 80, 128), (8, 64, 256)):
        tokens = windows * window
        yield Case(
            "window-attention", {"heads": heads, "windows": windows, "window": window, "width": width},
            4 * tokens * window * heads * width, 4 * tokens * heads * width,
            _attend(windows, heads, window, window, width, causal=False),
        )  # fmt: skip


def _elementwise() -> Iterator[Case]:
    """A norm: each number read and written."""
    for width, rows in product((1280, 3584), (1, 64, 1024, 8192)):

        def build(device: torch.device, dtype: torch.dtype, w: int = width, r: int = rows) -> Callable[[], object]:
            x_RD = _random(r, w, device=device, dtype=dtype)
            return lambda: layer_norm(x_RD, (w,))

        yield Case("elementwise", {"rows": rows, "width": width}, 0.0, 2 * rows * width, build)
