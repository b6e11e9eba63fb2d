"""Formulas name what exists, and give sound numbers at the defaults and on a typical request."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import Any, get_args

from pydantic import BaseModel

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.yaml_subset import Loc
from lvlm_atlas.fault import suggestion
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.rules.sample import ALPHA
from lvlm_atlas.schema.effect import Change, Effect, Speculation, Typical
from lvlm_atlas.schema.expression import Amount, evaluate, names_in
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.technique import Technique

TYPICAL: Mapping[str, int] = {
    "B": 1, "F": 1, "A": 112_896, "N_s": 1, "N_p": 576, "N_v": 576, "N_in": 576, "N_t": 64, "N": 640, "N_o": 128,
    "L": 32, "L_v": 23, "l": 16, "H": 32, "H_v": 16, "G": 32, "d": 128, "D": 4096, "D_v": 1024, "P": 2,
}  # fmt: skip
"""One request to LLaVA-1.5 7B with an image of 336 × 336, sizes as in its published configuration."""
OTHER = 16
"""Stands for a symbol that is not listed above."""


@rule(
    id="unknown-name-in-expression",
    message="{expression!r} uses {name!r}, neither a parameter of the entry nor a symbol of the taxonomy",
    repair="{hint}",
    why="The planner could not compute the effect.",
    example=lambda files: files[ALPHA]["effects"][0].update(scale="keep_rate"),
)
def unknown_name(inspection: Inspection) -> Iterator[Finding]:
    """Amounts of effects and overheads. Silent while the symbols cannot be read."""
    if "symbol" not in inspection.atlas.vocabularies:
        return
    for path, technique in inspection.of(Technique):
        known = {*technique.parameters, *_symbols(inspection)}
        for loc, amount in amounts_in(technique):
            for name in sorted(names_in(amount) - known if isinstance(amount, str) else ()):
                words = {"expression": amount, "name": name, "hint": suggestion(name, known)}
                yield Finding(path=path, loc=loc, words=words)


def _shadow(files: Files) -> None:
    parameters = files[ALPHA]["parameters"]
    parameters["d"] = parameters.pop("layer")
    files[ALPHA]["effects"][0]["from_layer"] = "d"
    files[ALPHA]["trials"][0] = {"keep_ratio": 0.25}


@rule(
    id="parameter-shadows-symbol",
    message="parameter {name!r} has the name of a symbol ({meaning})",
    repair="rename the parameter",
    why="In a formula the two could not be told apart.",
    example=_shadow,
)
def parameter_shadows_symbol(inspection: Inspection) -> Iterator[Finding]:
    """Parameters of techniques."""
    symbols = _symbols(inspection)
    for path, technique in inspection.of(Technique):
        for name in technique.parameters:
            if name in symbols:
                yield Finding(path=path, loc=("parameters", name), words={"name": name, "meaning": symbols[name]})


@rule(
    id="expression-fails",
    message="{problem}, with {setting}",
    repair="correct the formula, or narrow the range of its parameters",
    why="A count, a share or a cost is a finite number that is not negative.",
    example=lambda files: files[ALPHA]["effects"][0].update(scale="keep_ratio - 0.6"),
)
def expression_fails(inspection: Inspection) -> Iterator[Finding]:
    """Amounts of effects and overheads, at the defaults and at each trial, on a typical request."""
    symbols: dict[str, Any] = {name: TYPICAL.get(name, OTHER) for name in _symbols(inspection)}
    for path, technique in inspection.of(Technique):
        defaults = {name: parameter.default for name, parameter in technique.parameters.items()}
        for loc, amount in amounts_in(technique):
            used = names_in(amount) if isinstance(amount, str) else frozenset()
            if used - {*symbols, *defaults}:
                continue
            settings = [{}, *technique.trials] if used else [{}]
            problems = ((_problem(amount, symbols | defaults | setting), setting) for setting in settings)
            first = next(((problem, setting) for problem, setting in problems if problem), None)
            if first:
                yield Finding(path=path, loc=loc, words={"problem": first[0], "setting": _setting_shown(first[1])})


def _too_much(files: Files) -> None:
    seen = {"value": 2, "setting": "somewhere", "source": {"paper": "doe2025alpha", "place": "table 1"}}
    files[ALPHA]["effects"][0] = {"quantity": "llm.vision-tokens", "at_least": 3, "at_most": "N_v", "typical": seen}


@rule(
    id="typical-outside-bounds",
    message="the typical value {value:g} lies outside {low:g} to {high:g}, with {setting}",
    repair="correct the value, or the bounds",
    why="An estimate would take what no run can give.",
    example=_too_much,
)
def typical_outside_bounds(inspection: Inspection) -> Iterator[Finding]:
    """Typical values of effects, at the defaults and at each trial, on a typical request."""
    symbols: dict[str, Any] = {name: TYPICAL.get(name, OTHER) for name in _symbols(inspection)}
    for path, technique in inspection.of(Technique):
        defaults = {name: parameter.default for name, parameter in technique.parameters.items()}
        for index, effect in enumerate(technique.effects):
            for key, typical, least, most in _typical(effect):
                for setting in ({}, *technique.trials):
                    names = symbols | defaults | setting
                    try:
                        value, low, high = (evaluate(amount, names) for amount in (typical.value, least, most))
                    except ValueError:  # another rule's fault
                        continue
                    if not low <= value <= high:
                        words = {"value": value, "low": low, "high": high, "setting": _setting_shown(setting)}
                        yield Finding(path=path, loc=("effects", index, key, "value"), words=words)
                        break


_SHARES = ("encoder.density", "attention.density", "llm.weights", "kv.resident", "kv.read")
"""Quantities that are shares of a whole."""
_LAYERS = ("kv.layers", "llm.depth")
"""Quantities that count layers of the LLM."""


def _denser(files: Files) -> None:
    files[ALPHA]["effects"][0] = {"quantity": "attention.density", "set": "1 + keep_ratio"}


@rule(
    id="more-than-all",
    message="{quantity} becomes {value:g}, more than {most:g}, which is all there is; with {setting}",
    repair="correct the amount, or cap it",
    why="No run can have more than all of it, and estimates would price what does not exist.",
    example=_denser,
)
def more_than_all(inspection: Inspection) -> Iterator[Finding]:
    """Shares and numbers of layers that effects set, scale or bound, at the defaults and at each trial."""
    symbols: dict[str, Any] = {name: TYPICAL.get(name, OTHER) for name in _symbols(inspection)}
    for path, technique in inspection.of(Technique):
        defaults = {name: parameter.default for name, parameter in technique.parameters.items()}
        for index, effect in enumerate(technique.effects):
            if effect.quantity not in (*_SHARES, *_LAYERS):
                continue
            most = 1 if effect.quantity in _SHARES else symbols.get("L", TYPICAL["L"])
            for key, setting in product(("set", "scale", "at_most", "fetch"), ({}, *technique.trials)):
                if (amount := getattr(effect, key, None)) is None:
                    continue
                try:
                    value = evaluate(amount, symbols | defaults | setting)
                except ValueError:  # another rule's fault
                    continue
                if value > (1 if key == "scale" else most):
                    words = {"quantity": effect.quantity, "value": value, "most": most,
                             "setting": _setting_shown(setting)}  # fmt: skip
                    yield Finding(path=path, loc=("effects", index, key), words=words)
                    break


def _typical(effect: Effect) -> Iterator[tuple[str, Typical, float | str, float | str]]:
    """The typical values of an effect, each with its key and bounds."""
    if isinstance(effect, Change) and effect.typical:
        at_most = sys.float_info.max if effect.at_most is None else effect.at_most
        yield "typical", effect.typical, effect.at_least or 0, at_most
    if isinstance(effect, Speculation) and effect.accepted:
        yield "accepted", effect.accepted, effect.accepted_at_least, effect.accepted_at_most


def _problem(amount: float | str, names: Mapping[str, Any]) -> str | None:
    try:
        value = evaluate(amount, names)
    except ValueError as error:
        return str(error)
    return f"{amount!r} gives {value:g}" if value < 0 else None


def _setting_shown(setting: Mapping[str, Setting]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in setting.items()) or "the defaults"


@rule(
    id="unknown-parameter",
    message="the setting names {name!r}, which is no parameter of the entry",
    repair="{hint}",
    why="The run would fail, or silently use the default.",
    example=lambda files: files[ALPHA].update(neutral={"keep_ration": 1.0}),
)
def unknown_parameter(inspection: Inspection) -> Iterator[Finding]:
    """`neutral`, `trials` and the settings of reported numbers."""
    for path, technique in inspection.of(Technique):
        for loc, name, _ in _settings(technique):
            if name not in technique.parameters:
                words = {"name": name, "hint": suggestion(name, technique.parameters)}
                yield Finding(path=path, loc=loc, words=words)


@rule(
    id="illegal-setting",
    message="{name}: {problem}",
    repair="give a legal value, or widen the parameter's range",
    why="The reference would refuse to run with it.",
    example=lambda files: files[ALPHA]["trials"][0].update(keep_ratio=1.5),
)
def illegal_setting(inspection: Inspection) -> Iterator[Finding]:
    """`neutral`, `trials` and the settings of reported numbers."""
    for path, technique in inspection.of(Technique):
        for loc, name, value in _settings(technique):
            parameter = technique.parameters.get(name)
            problem = parameter.problem_with(value) if parameter else None
            if problem:
                yield Finding(path=path, loc=loc, words={"name": name, "problem": problem})


def amounts_in(technique: Technique) -> Iterator[tuple[Loc, float | str]]:
    """Every amount of a technique's effects and overheads, with its place in the entry."""
    for key in ("effects", "overheads"):
        records: tuple[BaseModel, ...] = getattr(technique, key)
        for index, record in enumerate(records):
            for name in _amount_fields(type(record)):
                amount = getattr(record, name)
                if amount is not None:
                    yield (key, index, name), amount
            for name in type(record).model_fields:
                if isinstance(typical := getattr(record, name), Typical):
                    yield (key, index, name, "value"), typical.value


@lru_cache(maxsize=64)
def _amount_fields(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(
        name for name, field in model.model_fields.items() if Amount in (field.annotation, *get_args(field.annotation))
    )


def _settings(technique: Technique) -> Iterator[tuple[Loc, str, Setting]]:
    for name, value in (technique.neutral or {}).items():
        yield ("neutral", name), name, value
    for index, trial in enumerate(technique.trials):
        for name, value in trial.items():
            yield ("trials", index, name), name, value
    for index, experiment in enumerate(technique.reported):
        for name, value in experiment.setting.items():
            yield ("reported", index, "setting", name), name, value


def _symbols(inspection: Inspection) -> dict[str, str]:
    """Symbols of the taxonomy with their names."""
    vocabulary = inspection.atlas.vocabularies.get("symbol")
    return {term.id: term.name or term.id for term in vocabulary.terms if not term.gone} if vocabulary else {}
