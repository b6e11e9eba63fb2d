"""Computed numbers as people read them: three digits, with the unit that fits."""

from __future__ import annotations

import math

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
_RATES = ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1.0, "FLOP/s"))
_FLOPS = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1.0, "FLOP"))
_COUNTS = ((1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def number(value: float) -> str:
    """Three digits, without an exponent and without zeros that say nothing; whole numbers keep all of theirs."""
    if not value or not math.isfinite(value):
        return f"{value:g}".replace("inf", "∞")
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    shown = f"{value:,.{places}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def seconds(value: float) -> str:
    """A time, given in seconds."""
    return _scaled(value, _TIMES)


def size(byte: float) -> str:
    """An amount of memory; units are decimal."""
    return _scaled(byte, _BYTES)


def bandwidth(byte_s: float) -> str:
    """A rate of memory traffic."""
    return f"{_scaled(byte_s, _BYTES)}/s"


def flop(value: float) -> str:
    """An amount of arithmetic."""
    return _scaled(value, _FLOPS)


def rate(flop_s: float) -> str:
    """A rate of arithmetic."""
    return _scaled(flop_s, _RATES)


def parameters(count: float) -> str:
    """A number of parameters, such as 7.62 B."""
    return _scaled(count, _COUNTS)


def share(value: float) -> str:
    """A share in per cent, as whole ones where that says enough."""
    per_cent = 100 * value
    return f"{per_cent:.0f} %" if not per_cent or per_cent >= 10 else f"{number(float(f'{per_cent:.2g}'))} %"


NO_CHANGE = "no change"


def gain(before: float, after: float) -> str:
    """How many times less is left, as in `1.53 ×`; below 1 where it became more."""
    if math.isclose(before, after, rel_tol=5e-3):
        return NO_CHANGE
    if not after:
        return "none left"
    times = before / after
    return f"{times:.2f} ×" if times < 10 else f"{number(times)} ×"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    for unit, name in units:
        if abs(value) >= unit * 0.9995 or (not value and unit == 1):
            return f"{number(value / unit)} {name}".rstrip()
    unit, name = units[-1]
    return f"{number(value / unit)} {name}".rstrip()
