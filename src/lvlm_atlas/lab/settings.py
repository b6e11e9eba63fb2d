"""Settings and requests under which declarations are tried: the entry's own, and others within its ranges."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, pairwise, zip_longest

from lvlm_atlas.lab.verification import Shape
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.technique import RANGE, Parameter, Technique

SHAPES = (
    Shape(preset="tiny", frames=6, text_tokens=16, output_tokens=12),
    Shape(preset="tiny-mha", frames=9, text_tokens=33, output_tokens=7),
    Shape(preset="tiny", frames=1, text_tokens=5, output_tokens=1),
    Shape(preset="tiny-mha", frames=2, text_tokens=2, output_tokens=20, temperature=0.8),
    Shape(preset="tiny", frames=2, text_tokens=40, output_tokens=9),
    Shape(preset="tiny-mha", frames=6, text_tokens=12, output_tokens=5),
    Shape(preset="tiny", frames=9, text_tokens=24, output_tokens=3),
    Shape(preset="tiny-window", frames=6, text_tokens=16, output_tokens=12),
    Shape(preset="tiny-window", frames=3, text_tokens=9, output_tokens=6),
    Shape(preset="tiny-deepstack", frames=4, text_tokens=11, output_tokens=6),
    Shape(preset="tiny-tiles", frames=2, text_tokens=7, output_tokens=4),
    Shape(preset="tiny", frames=2, text_tokens=6, output_tokens=4, rounds=3),
    Shape(preset="tiny-window", frames=2, text_tokens=8, output_tokens=3, rounds=2),
)
"""All dialects, tiles, sessions, few and many frames, little and much text, long answers, heads shared and separate."""
ON_DEVICE = tuple(
    Shape(preset=preset, frames=4, text_tokens=9, output_tokens=3, on_device=True)
    for preset in ("tiny", "tiny-window", "tiny-deepstack", "tiny-tiles")
)
"""Requests to every dialect in runs as on a GPU, which take longer: each operator is looked at."""
RUNS = 48
"""Most runs of a technique, those not counted that are refused and drawn again."""
JOINT = 6
"""Settings drawn in all parameters at once."""
SPARES = 3
"""Draws in place of one that the reference refuses."""
AGAIN = 0.4
"""Share of a trial's parameters that such a draw moves."""


def authored(technique: Technique) -> list[dict[str, Setting]]:
    """The settings that the entry names: its trials, the neutral one, and all defaults, unless one is over what is
    tried.
    """
    neutral = [] if technique.neutral is None else [technique.neutral]
    return distinct([*technique.trials, *neutral, *([] if any(map(_is_over, technique.parameters.values())) else [{}])])


def _is_over(parameter: Parameter) -> bool:
    """Whether the default is larger than the values that are tried."""
    most, default = parameter.tried_up_to, parameter.default
    return most is not None and isinstance(default, int | float) and default > most


def shapes_for(number: int) -> tuple[Shape, ...]:
    """Where the setting that stands at an index of `authored` runs: the first everywhere, others once a preset.

    As on a GPU the first runs on every dialect besides, and each of the others on one.
    """
    if number == 0:
        return (*SHAPES, *ON_DEVICE)
    by_preset: dict[str, list[Shape]] = {}
    for shape in SHAPES:
        by_preset.setdefault(shape.preset, []).append(shape)
    there = ON_DEVICE[number % len(ON_DEVICE)]
    by_preset[there.preset] = [there]
    return tuple(shapes[number % len(shapes)] for shapes in by_preset.values())


def generated(technique: Technique, most: int = RUNS) -> list[list[dict[str, Setting]]]:
    """Other legal settings, `most` at most, each with those to try where the reference refuses it.

    First a trial with one parameter moved, the parameters taking turns, then all moved together; a refused one is drawn
    again, as a trial with some parameters moved. No setting comes twice, none that the entry names, and every call
    gives the same.
    """
    trials = technique.trials or ({},)
    choices = [_choices(technique, trial) for trial in trials]
    draw = random.Random(technique.id)  # noqa: S311 - nothing secret

    def drawn(share: float) -> dict[str, Setting]:
        """A trial with about this share of its parameters moved."""
        number = draw.randrange(len(trials))
        moved = {name: draw.choice(choice) for name, choice in choices[number].items() if draw.random() < share}
        return _fitted(technique, trials[number] | moved)

    turns = zip_longest(*([(name, value) for value in choice] for name, choice in choices[0].items()))
    alone = [_fitted(technique, trials[0] | dict([change])) for turn in turns for change in turn if change]
    known = authored(technique)
    first = [setting for setting in distinct(alone) if setting not in known][: max(0, most - JOINT)]
    joint = [setting for setting in (drawn(1) for _ in range(JOINT)) if setting not in known]
    first = distinct([*first, *joint])[:most]
    again = distinct(drawn(AGAIN) for _ in range(SPARES * most))
    spares = iter([setting for setting in again if setting not in known and setting not in first])
    return [[setting, *islice(spares, SPARES)] for setting in first]


def _fitted(technique: Technique, setting: dict[str, Setting]) -> dict[str, Setting]:
    """The setting, with the nearest legal multiple wherever a parameter must be one of another."""
    whole = {name: setting.get(name, parameter.default) for name, parameter in technique.parameters.items()}
    for name, parameter in technique.parameters.items():
        value, unit = whole[name], whole.get(parameter.multiple_of or "")
        if isinstance(value, int) and isinstance(unit, int) and unit and value % unit:
            nearest = max(1, round(value / unit)) * unit
            if parameter.problem_with(nearest) is None:
                setting = setting | {name: nearest}
    return setting


def _choices(technique: Technique, trial: Mapping[str, Setting]) -> dict[str, list[Setting]]:
    """The values to move each parameter of a trial to; lists stay as long as they are, for others may go with them."""
    choices = {}
    for name, parameter in technique.parameters.items():
        named = [setting[name] for setting in authored(technique) if name in setting]
        choices[name] = candidates(parameter, named)
        if isinstance(value := trial.get(name, parameter.default), tuple):
            choices[name] = [each for each in choices[name] if isinstance(each, tuple) and len(each) == len(value)]
    return choices


def candidates(parameter: Parameter, named: Sequence[Setting] = ()) -> list[Setting]:
    """Legal values that spread over a parameter's range, ends included where they belong to it.

    Args:
        parameter: the parameter.
        named: values that the entry's settings have for it: lists are made of the numbers in them, and of whole numbers
            their halves and doubles are tried too.
    """
    if isinstance(parameter.default, tuple):
        return _lists(parameter, named or [parameter.default])
    if parameter.choices:
        return list(parameter.choices)
    if parameter.type == "bool":
        return [False, True]
    match = RANGE.match(parameter.range or "")
    low, high = (float(match[2]), float(match[3])) if match else (-math.inf, math.inf)
    high = min(high, math.inf if parameter.tried_up_to is None else parameter.tried_up_to)
    scale = abs(float(parameter.default)) or 1.0  # a number, as its type says
    if math.isfinite(low) and math.isfinite(high):
        tried = [low, high, *(low + share * (high - low) for share in (0.13, 0.5, 0.86))]
    elif parameter.type == "int":
        tried = [low + step if math.isfinite(low) else step for step in (0, 1, 2, 5, 11, 10 * scale)]
        near = [value for value in named if isinstance(value, int) and not isinstance(value, bool)]
        tried += [value for each in near for value in (each // 2, each, 2 * each)]
    else:
        start = low if math.isfinite(low) else -scale
        tried = [start, start + scale / 1e6, start + scale / 4, start + scale, start + 2 * scale]
    whole = parameter.type == "int"
    spread: list[Setting] = [
        int(value) if whole else value for value in tried if math.isfinite(value) and value <= high
    ]
    return [value for value in dict.fromkeys(spread) if parameter.problem_with(value) is None]


def _lists(parameter: Parameter, named: Sequence[Setting]) -> list[Setting]:
    """Legal lists, as long as those named and in the order that the parameter asks for.

    Whole numbers are those of the named lists, between and next to them, for of the layers of a published model most do
    not exist in a tiny one; others spread over the range too.
    """
    lists = [value for value in named if isinstance(value, tuple)]
    numbers = sorted({number for numbers in lists for number in numbers if isinstance(number, int | float)})
    low, high = (numbers[0], numbers[-1]) if numbers else (0, 1)
    if parameter.type == "ints":
        pool: list[int | float] = list(range(int(low) - 1, int(high) + 2))
    else:
        one = parameter.model_copy(update={"type": "float", "default": high})
        spread = (value for value in candidates(one) if isinstance(value, float | int))
        pool = sorted({*numbers, *((below + above) / 2 for below, above in pairwise(numbers)), *spread})
    draw = random.Random(str(lists))  # noqa: S311 - nothing secret
    drawn = []
    for size in (len(value) for value in lists for _ in range(JOINT)):
        alone = parameter.order is not None and size <= len(pool)
        some = draw.sample(pool, size) if alone else draw.choices(pool, k=size)
        drawn.append(tuple(sorted(some, reverse=parameter.order == "falling") if parameter.order else some))
    return [value for value in dict.fromkeys([*lists, *drawn]) if parameter.problem_with(value) is None]


def distinct(settings: Iterable[Mapping[str, Setting]]) -> list[dict[str, Setting]]:
    """Each setting once, in order."""
    return list({tuple(sorted(setting.items())): dict(setting) for setting in settings}.values())
