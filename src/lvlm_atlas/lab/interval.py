"""Numbers of which only bounds are known, amounts over them, and effects applied to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lvlm_atlas.schema.effect import Change, Schedule
from lvlm_atlas.schema.expression import evaluate

_SLACK = 1e-9
"""Relative; shares are quotients of counts."""
_WHOLE: Mapping[str, Callable[[float], float]] = {"nearest": round, "down": math.floor, "up": math.ceil}


@dataclass(frozen=True)
class Interval:
    """A number between two bounds; exact if they meet."""

    low: float
    high: float

    @classmethod
    def of(cls, *numbers: float) -> Interval:
        """The smallest interval that holds these numbers."""
        return cls(min(numbers), max(numbers))

    def __add__(self, other: Interval | float) -> Interval:
        low, high = (other.low, other.high) if isinstance(other, Interval) else (other, other)
        return Interval(self.low + low, self.high + high)

    def __mul__(self, other: Interval | float) -> Interval:
        """The product of numbers that are not negative."""
        low, high = (other.low, other.high) if isinstance(other, Interval) else (other, other)
        return Interval(self.low * low, self.high * high)

    def __contains__(self, number: float) -> bool:
        slack = _SLACK * max(1.0, abs(number))
        return self.low - slack <= number <= self.high + slack


@dataclass(frozen=True)
class Names:
    """What the names in an amount stand for, some perhaps for intervals.

    An amount is evaluated with all names at their lower bounds and with all at their upper bounds, since the
    counts of a request grow together. That is exact where all bounds meet; elsewhere it takes for granted that
    the amount rises or falls throughout.
    """

    values: Mapping[str, Any]

    def amount(self, amount: float | str) -> Interval:
        """The amount.

        Raises:
            ValueError: a name is missing, or the arithmetic fails.
        """
        ends = (
            {name: getattr(value, end) if isinstance(value, Interval) else value for name, value in self.values.items()}
            for end in ("low", "high")
        )
        return Interval.of(*(evaluate(amount, end) for end in ends))

    def but(self, **values: Any) -> Names:
        """The same names with other values for some."""
        return Names({**self.values, **values})


def changed(effect: Change, old: Interval, names: Names, *, whole: bool = True) -> Interval:
    """What an effect makes of a number; a `whole` one is a count, which is rounded as the effect says.

    Where only one bound is given, the other is 0 or the old value.
    """
    if effect.set is not None:
        return names.amount(effect.set)
    if effect.scale is not None:
        scaled = old * names.amount(effect.scale)
        rounded = _WHOLE[effect.rounding]
        return Interval(rounded(scaled.low), rounded(scaled.high)) if whole else scaled
    if effect.cap is not None:
        cap = names.amount(effect.cap)
        return Interval(min(old.low, cap.low), min(old.high, cap.high))
    if effect.remove is not None:
        gone = names.amount(effect.remove)
        return Interval.of(max(0.0, old.low - gone.low), max(0.0, old.high - gone.high))
    low = 0.0 if effect.at_least is None else names.amount(effect.at_least).low
    high = old.high if effect.at_most is None else names.amount(effect.at_most).high
    return Interval(low, high)


def scheduled(
    effect: Schedule,
    layers: Sequence[Interval],
    names: Callable[[int, Interval], Names],
    *,
    whole: bool = True,
    flows: bool = False,
) -> list[Interval]:
    """What an effect makes of a number in each layer.

    Args:
        effect: the effect.
        layers: the number in each layer, as the effects before left it.
        names: the names in a layer, given its index and the number there.
        whole: as in `changed`.
        flows: whether a layer hands its tokens to the next, so that what one removes is gone in all that follow.
    """
    first = names(0, layers[0]).amount(effect.from_layer).low
    last = len(layers) if effect.to_layer is None else names(0, layers[0]).amount(effect.to_layer).high
    gone, new = Interval(0, 0), []
    for index, before in enumerate(layers):
        old = Interval(before.low - gone.low, before.high - gone.high)
        if first <= index < last:
            left = changed(effect, old, names(index, old).but(l=index), whole=whole)
            if flows and effect.remove is not None:
                gone += Interval(old.low - left.low, old.high - left.high)
            old = left
        new.append(old)
    return new


def longest_rows(rows: float, tokens: Sequence[float]) -> float:
    """Scores in the longest `rows` rows of the causal attention maps of layers with so many tokens, for one head."""
    lengths = sorted((length for count in tokens for length in range(1, int(count) + 1)), reverse=True)
    return sum(lengths[: max(0, int(rows))])
