"""A stack of techniques: whether they can run together and on a model, and what acts for each in a run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from lvlm_atlas.needs import CALIBRATION, cannot_give, unmet
from lvlm_atlas.reference.lvlm.points import POINTS
from lvlm_atlas.reference.lvlm.technique import Acts, Run, Technique
from lvlm_atlas.reference.refusal import Refusal, StackError


@dataclass(frozen=True)
class Stack:
    """Techniques that run together; at one point they apply in the order given.

    Raises:
        TypeError: an object is no technique, or declares no known position.
        StackError: two act at one exclusive point; one needs what another withholds, by where it acts or before it.
    """

    techniques: tuple[Technique, ...] = ()

    def __post_init__(self) -> None:
        for technique in self.techniques:
            _check(technique)
        for one, two in combinations(self.techniques, 2):
            reasons = (*_shared(one, two), *_withheld(one, two), *_withheld(two, one), *_gone(one, two))
            for reason in (*reasons, *(_gone(two, one) if _first(two) < _last(one) else ())):
                raise StackError(f"{reason}; drop one of them")

    def fit(self, offers: Collection[str]) -> None:
        """Check the techniques' needs against what a model offers, and that none waits to be calibrated.

        Raises:
            Refusal: the model lacks something.
            ValueError: a technique must be calibrated first.
        """
        for technique in self.techniques:
            for need in unmet(technique.needs, offers):
                raise Refusal(f"{_name(technique)} needs `{need}`, but this model {cannot_give(need)}; leave it out")

        for technique in self.techniques:
            if CALIBRATION in technique.needs and getattr(technique, "calibration", None) is None:
                raise ValueError(
                    f"{_name(technique)} is not calibrated; run what its `calibrate(lvlm, samples)` returns, the "
                    f"samples being a few requests like those that it will be asked"
                )

    def begin(self, run: Run) -> Acts:
        """What acts in a run, each technique begun once.

        Raises:
            TypeError: what a technique begins lacks the method of a point that it declares.
            Refusal: a technique declines the run.
        """
        begun = [(technique, technique.begin(run)) for technique in self.techniques]
        for technique, acting in begun:
            for position in technique.acts_at:
                if not callable(getattr(acting, POINTS[position].method, None)):
                    raise TypeError(
                        f"{_name(technique)} acts at {position!r}, but {type(acting).__name__} has no method "
                        f"{POINTS[position].method!r}"
                    )
        by_position = {
            position: acting for position in POINTS if (acting := tuple(each for _, each in _in_turn(begun, position)))
        }
        loops = [technique for technique in self.techniques if "decode-loop" in technique.acts_at]
        retain = any({"attention-row", "attention-map"} & {*loop.needs} for loop in loops)
        adapters = (technique for technique in self.techniques if "adapter" in technique.acts_at)
        return Acts(
            by_position,
            retain_attention=retain,
            retain_states=any("layer-states" in loop.needs for loop in loops),
            places_lost=any("whole-grid" in adapter.withholds for adapter in adapters),
            unrotated=any("unrotated-keys" in technique.needs for technique in self.techniques),
        )


def _in_turn(begun: Sequence[tuple[Technique, Any]], position: str) -> list[tuple[Technique, Any]]:
    """Those that act at a position, in the order of the stack; who admits to the cache comes before who evicts."""
    acting = [pair for pair in begun if position in pair[0].acts_at]
    return sorted(acting, key=lambda pair: not pair[0].admits) if position == "cache-step" else acting


def _check(technique: object) -> None:
    if not isinstance(technique, Technique):
        raise TypeError(f"{technique!r} is no technique; make its class a `Technique` and give an instance")
    if not technique.acts_at or not {*technique.acts_at} <= POINTS.keys():
        raise TypeError(
            f"{_name(technique)} acts at no extension point: acts_at is {technique.acts_at!r}; name some of "
            f"{', '.join(POINTS)}"
        )


def _shared(one: Technique, two: Technique) -> Iterator[str]:
    for position in one.acts_at:
        if POINTS[position].exclusive and position in two.acts_at:
            yield f"{_name(one)} and {_name(two)} both own {position!r}, which one technique at most can own"


def _withheld(owner: Technique, other: Technique) -> Iterator[str]:
    for position in owner.acts_at:
        for need in POINTS[position].withholds:
            if need in other.needs:
                yield f"{_name(other)} needs `{need}`, which nobody can read once {_name(owner)} acts at {position!r}"


def _gone(first: Technique, second: Technique) -> Iterator[str]:
    """What the second needs and the first, which stands before it in the stack, withholds."""
    if _first(first) <= _last(second):
        for need in first.withholds:
            if need in second.needs:
                yield f"{_name(second)} needs `{need}`, which nobody finds behind {_name(first)}"


def _first(technique: Technique) -> int:
    return min(map([*POINTS].index, technique.acts_at))


def _last(technique: Technique) -> int:
    return max(map([*POINTS].index, technique.acts_at))


def _name(technique: Technique) -> str:
    return type(technique).__name__
