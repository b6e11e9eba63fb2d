"""Settings and requests under which declarations are tried: the entry's own, and others within its ranges."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping

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
)
"""All dialects, few and many frames, little and much text, short and long answers, shared and separate heads."""
JOINT = 6
"""Settings drawn in all parameters at once."""


def authored(technique: Technique) -> list[dict[str, Setting]]:
    """The settings that the entry names: its trials, the neutral one, and all defaults."""
    return distinct([*technique.trials, technique.neutral or {}, {}])


def generated(technique: Technique) -> list[dict[str, Setting]]:
    """Other legal settings: a trial with one parameter moved, then all moved together. The same on every call."""
    base = technique.trials[0] if technique.trials else {}
    values = {name: candidates(parameter) for name, parameter in technique.parameters.items()}
    moved = [base | {name: value} for name, choice in values.items() for value in choice]
    draw = random.Random(technique.id)  # noqa: S311 - nothing secret
    joint = [{name: draw.choice(choice) for name, choice in values.items()} for _ in range(JOINT)]
    known = authored(technique)
    return [setting for setting in distinct([*moved, *joint]) if setting not in known]


def candidates(parameter: Parameter) -> list[Setting]:
    """Legal values that spread over a parameter's range, ends included where they belong to it."""
    if isinstance(parameter.default, tuple):
        return _lists(parameter, parameter.default)
    if parameter.choices:
        return list(parameter.choices)
    if parameter.type == "bool":
        return [False, True]
    match = RANGE.match(parameter.range or "")
    low, high = (float(match[2]), float(match[3])) if match else (-math.inf, math.inf)
    scale = abs(float(parameter.default)) or 1.0  # a number, as its type says
    if math.isfinite(low) and math.isfinite(high):
        tried = [low, high, *(low + share * (high - low) for share in (0.13, 0.5, 0.86))]
    elif parameter.type == "int":
        tried = [low + step if math.isfinite(low) else step for step in (0, 1, 2, 5, 11, 10 * scale)]
    else:
        start = low if math.isfinite(low) else -scale
        tried = [start, start + scale / 1e6, start + scale / 4, start + scale, start + 2 * scale]
    whole = parameter.type == "int"
    found: list[Setting] = [int(value) if whole else value for value in tried if math.isfinite(value)]
    return [value for value in dict.fromkeys(found) if parameter.problem_with(value) is None]


def _lists(parameter: Parameter, default: tuple[int | float, ...]) -> list[Setting]:
    """Legal lists: the default, and values of its range in the order it asks for, as many as the default has."""
    one = parameter.model_copy(
        update={"type": parameter.type.removesuffix("s"), "default": default[0] if default else 1}
    )
    values = sorted(value for value in candidates(one) if isinstance(value, int | float))
    draw = random.Random(str(default))  # noqa: S311 - nothing secret
    size = len(default)
    drawn = [draw.sample(values, size) if size <= len(values) else draw.choices(values, k=size) for _ in range(JOINT)]
    if parameter.order:
        drawn = [sorted(numbers, reverse=parameter.order == "falling") for numbers in drawn]
    return [value for value in dict.fromkeys([default, *map(tuple, drawn)]) if parameter.problem_with(value) is None]


def distinct(settings: Iterable[Mapping[str, Setting]]) -> list[dict[str, Setting]]:
    """Each setting once, in order."""
    return list({tuple(sorted(setting.items())): dict(setting) for setting in settings}.values())
