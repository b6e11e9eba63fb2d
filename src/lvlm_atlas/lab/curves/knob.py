"""Which parameter of a technique moves what a run costs, and the settings that a curve is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lvlm_atlas.lab.curves.cost import Costs
from lvlm_atlas.lab.settings import authored, candidates
from lvlm_atlas.schema.curve import Curve
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.technique import RANGE, Parameter, Technique

TARGETS = (0.75, 0.5, 0.25, 0.1)
"""What the points of a curve lie near: shares of the way from the least of the main cost that the knob reaches to that
without techniques."""
SQUARES = 0.5
"""How much less a change of attention scores counts: they fall with the square of tokens that go."""
WIDE = 0.02
"""What a parameter must change of a cost, as a share of that without techniques, to be a knob."""
MOST_VALUE = 512
"""Largest whole number that is tried as a value."""
Settings = dict[str, Setting]


@dataclass(frozen=True)
class Knob:
    """The settings to run, and what they are told apart by."""

    parameter: str | None
    """The parameter that moves; None: no parameter changes any cost."""
    main_cost: str
    """What it changes most."""
    settings: tuple[Settings, ...]
    """The main cost falling."""


def knob(
    technique: Technique, cost_of: Callable[[Settings], Costs | None], trained: Sequence[Settings] = ()
) -> Knob | None:
    """The parameter that changes most of any cost, at values whose costs lie near `TARGETS`, and the base setting.

    Args:
        technique: the entry.
        cost_of: what a run at a setting costs, as shares of the run without techniques; None where it is refused.
        trained: settings whose weights are trained, which come before the entry's.

    Returns None where the defaults and every setting that the entry names are refused.
    """
    begun = _base([*trained, *sorted(authored(technique), key=bool)], technique, cost_of)
    if begun is None:
        return None
    base, own = begun
    best: tuple[float, str, str, list[tuple[float, Settings]]] | None = None
    for name, parameter in technique.parameters.items():
        most = MOST_VALUE if parameter.tried_up_to is None else max(parameter.tried_up_to, _largest(base.get(name, 0)))
        tried = [(base | {name: value}) for value in values(technique, name, parameter) if _largest(value) <= most]
        found = [(setting, costs) for setting in tried if (costs := cost_of(setting))]
        for cost in own:
            shares = [own[cost], *(costs[cost] for _, costs in found)]
            width = (min(1.0, max(shares)) - min(shares)) * (SQUARES if cost == "score_entries" else 1.0)
            if width > (best[0] * 1.05 if best else WIDE):  # the earlier of two alike
                best = (width, name, cost, [(costs[cost], setting) for setting, costs in found])
    if best is None:
        main = min(own, key=lambda cost: own[cost])
        return Knob(None, main, (base,))
    _, name, main, points = best
    points.append((own[main], base))
    return Knob(name, main, tuple(_spread(points)))


def recorded(curve: Curve) -> Knob:
    """The knob of a curve that was run before, with its settings."""
    settings = {tuple(sorted(point.setting.items())): point.setting for each in curve.tasks for point in each.points}
    return Knob(curve.knob, curve.main_cost, tuple(settings.values()))


def values(technique: Technique, name: str, parameter: Parameter) -> Iterator[Setting]:
    """Legal values over the range of a parameter, more of them than checks try."""
    if parameter.type in ("bool", "choice") or parameter.choices:
        yield from (value for value in candidates(parameter) if value != parameter.default)
        return
    named = [setting[name] for setting in authored(technique) if name in setting]
    found = candidates(parameter, named)
    match = RANGE.match(parameter.range or "")
    if parameter.type == "int":
        found += [2**power for power in range(MOST_VALUE.bit_length())]
    elif parameter.type == "float" and match:
        low, high = float(match[2]), float(match[3])
        high = high if high < float("inf") else max(2.0, 4 * abs(float(parameter.default)))  # type: ignore[arg-type]
        found += [low + (high - low) * share / 16 for share in range(17)]
    for value in dict.fromkeys(found):
        if parameter.problem_with(value) is None and _largest(value) <= MOST_VALUE:
            yield value


def _largest(value: Setting) -> float:
    """The largest number in a value by its size; 0 where it holds none."""
    numbers = value if isinstance(value, tuple) else (value,)
    return max((abs(float(number)) for number in numbers if not isinstance(number, str)), default=0.0)


def _base(
    settings: Sequence[Settings], technique: Technique, cost_of: Callable[[Settings], Costs | None]
) -> tuple[Settings, Costs] | None:
    """The first of some settings that the model takes."""
    for setting in settings:
        if setting != technique.neutral and (costs := cost_of(dict(setting))):
            return dict(setting), costs
    return None


def _spread(points: list[tuple[float, Settings]]) -> Iterator[Settings]:
    """Of settings with their costs those nearest to each target, the base (last) among them, each cost once."""
    base = points[-1]
    below = [point for point in points if point[0] < 1 - WIDE] or [base]
    least = min(share for share, _ in below)
    chosen = {id(point): point for point in [base] * (base in below)}
    for target in TARGETS:
        wanted = least + target * (1 - least)
        nearest = min(below, key=lambda point: abs(point[0] - wanted))
        if all(abs(nearest[0] - share) > WIDE / 2 for share, _ in chosen.values()):
            chosen[id(nearest)] = nearest
    for _, setting in sorted(chosen.values(), key=lambda point: -point[0]) or [base]:
        yield setting
