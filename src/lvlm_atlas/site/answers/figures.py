"""What a stack costs as a few short numbers, from which a page shows exactly what the command line shows."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lvlm_atlas.roofline import units
from lvlm_atlas.roofline.costs import Cost

DIGITS = (5, 6, 7, 8, 10, 12, 17)
"""How many digits a number may have; it gets the fewest that show the same."""
_CLOSE = 1e-12
_SHOWN = ("encoding_s", "prefilling_s", "decoding_s", "ttft_s", "tpot_s", "total_s", "device_byte", "request_share")
"""The figures of a cost that a page shows."""


def written(cost: Cost, base: Cost | None = None) -> str:
    """A cost as text: times of the stages, time to the first token, per token, bytes, share of a device.

    What is as without techniques, or follows from the numbers before it, is left empty; so is the end.

    Args:
        cost: what a stack costs.
        base: what the request costs without techniques; None: this is that cost.
    """
    figures = [cost.encoding_s, cost.prefilling_s, cost.decoding_s, cost.ttft_s, cost.tpot_s, cost.device_byte,
               cost.request_share]  # fmt: skip
    if base is None:
        return ",".join(map(_full, figures))
    for digits in DIGITS:
        cells = ["" if _same(now, then) else _short(now, digits) for now, then in zip(figures, _expected(cost, base),
                                                                                      strict=True)]  # fmt: skip
        text = ",".join(cells).rstrip(",")
        if _shows(read(text, base), cost, base):
            return text
    raise AssertionError(f"no number of digits shows {cost}")


def read(text: str, base: Cost) -> Cost:
    """The cost that a text says."""
    cells = [float(cell) if cell else None for cell in text.split(",")] + [None] * 7
    befores = (base.encoding_s, base.prefilling_s, base.decoding_s)
    encoding, prefilling, decoding = (
        before if cell is None else cell for cell, before in zip(cells[:3], befores, strict=True)
    )
    ttft, tpot, byte, share = cells[3:7]
    return Cost(
        encoding, prefilling, decoding,
        _first(encoding, prefilling, base) if ttft is None else ttft,
        _each(decoding, base) if tpot is None else tpot,
        base.device_byte if byte is None else byte,
        base.request_share if share is None else share,
    )  # fmt: skip


def _shows(one: Cost, two: Cost, base: Cost) -> bool:
    """Whether a page shows the same of both."""
    return all(
        now == then or _words(name, now, base) == _words(name, then, base)
        for name in _SHOWN
        for now, then in ((getattr(one, name), getattr(two, name)),)
    )


def shown(cost: Cost, base: Cost) -> tuple[str, ...]:
    """All that a page may show of a cost."""
    return tuple(_shown(cost, base))


def _shown(cost: Cost, base: Cost) -> Iterator[str]:
    for name in _SHOWN:
        yield from _words(name, getattr(cost, name), base)


def _words(name: str, value: float, base: Cost) -> tuple[str, ...]:
    """What a page says of one figure."""
    if name == "request_share":
        return (str(math.floor(1 / value)) if value else "∞",)
    unit = units.size if name == "device_byte" else units.seconds
    return unit(value), units.gain(getattr(base, name), value)


def _expected(cost: Cost, base: Cost) -> tuple[float, ...]:
    """What a reader takes the figures for where nothing is written."""
    return (
        base.encoding_s, base.prefilling_s, base.decoding_s, _first(cost.encoding_s, cost.prefilling_s, base),
        _each(cost.decoding_s, base), base.device_byte, base.request_share,
    )  # fmt: skip


def _first(encoding_s: float, prefilling_s: float, base: Cost) -> float:
    """The time to the first token; of several turns the first one is the share of prefilling that it was before."""
    share = (base.ttft_s - base.encoding_s) / base.prefilling_s if base.prefilling_s else 0.0
    return encoding_s + prefilling_s * share


def _each(decoding_s: float, base: Cost) -> float:
    """The time per token, as many as before."""
    return base.tpot_s * decoding_s / base.decoding_s if base.decoding_s else 0.0


def _same(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=_CLOSE)


def _short(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return "Infinity"
    plain = f"{value:.{digits}g}".removeprefix("0") or "0"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    whole, _, rest = mantissa.partition(".")
    rest = rest.rstrip("0")
    return min(plain, f"{whole}{rest}e{int(exponent) - len(rest)}", key=len)


def _full(value: float) -> str:
    return "Infinity" if math.isinf(value) else repr(value)
