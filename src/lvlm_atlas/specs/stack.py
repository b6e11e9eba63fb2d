"""Stacks of techniques as people write them, and whether they can share a request."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.transform import Applied, value
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.technique import Parameter, Technique
from lvlm_atlas.specs.fits import problem
from lvlm_atlas.specs.technique import OUTCOMES, applied


@dataclass(frozen=True)
class Choice:
    """A technique at a setting."""

    technique: Technique
    setting: dict[str, Setting] = field(default_factory=dict)
    """Values of its parameters; what is left out has its default."""
    outcomes: dict[str, float] = field(default_factory=dict)
    """What data decide and the user knows, by the names of `specs.technique.OUTCOMES`."""


_PLUS = re.compile(r"(?<!\d[eE])\+|\+(?!\d)")
"""What joins techniques: a plus, but for that of a number such as `1e+3`."""


def split(text: str) -> list[str]:
    """The techniques of a stack such as `fastv:keep_ratio=0.25 + kivi`, each with its setting.

    Raises:
        AtlasError: nothing stands on one side of a plus.
    """
    parts = [part.strip() for part in _PLUS.split(text)]
    if not all(parts):
        raise AtlasError(f"stack {text!r} lacks a technique; write such as fastv:keep_ratio=0.25+kivi")
    return parts


def _shown(spec: str) -> str:
    """A stack as messages quote it: as it was written, unless that is no line of what can be seen."""
    return spec if spec.isprintable() else repr(spec)


def parse(kb: KnowledgeBase, spec: str, *, outcomes: Collection[str] = OUTCOMES) -> Choice:
    """A technique and its setting, from `id` or `id:name=value,name=value`. Names are its parameters, or outcomes.

    Args:
        kb: the techniques.
        spec: the text.
        outcomes: what of `specs.technique.OUTCOMES` may be given; a technique that runs has no outcomes to be told.

    Raises:
        AtlasError: no such technique, parameter, outcome or value.
    """
    id_, _, rest = spec.partition(":")
    if "," in id_:
        raise AtlasError(
            f"stack {_shown(spec)}: techniques are joined by a plus, such as {_shown(id_.replace(',', '+'))}"
        )
    choice = Choice(kb.technique(id_.strip()))
    technique = choice.technique
    for pair in filter(None, (part.strip() for part in rest.split(","))):
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals:
            raise AtlasError(f"stack {_shown(spec)}: {pair!r} sets nothing; write name=value")
        if name in choice.setting or name in choice.outcomes:
            raise AtlasError(f"stack {_shown(spec)}: {name} is set twice; leave one out")
        if name in technique.parameters:
            choice.setting[name] = value_of(technique.parameters[name], text)
            if problem := technique.parameters[name].problem_with(choice.setting[name]):
                raise AtlasError(f"stack {_shown(spec)}: {name}: {problem}")
        elif name in outcomes:
            choice.outcomes[name] = _number(spec, name, text)
        else:
            hint = suggestion(name, [*technique.parameters, *outcomes])
            raise AtlasError(f"stack {_shown(spec)}: {technique.id} has no parameter {name!r}; {hint}")
    return choice


def value_of(parameter: Parameter, text: str) -> Setting:
    """The value that a text spells for a parameter, a list as `8/16/24`; the text itself where it spells none."""
    for choice in parameter.choices:
        if str(choice).lower() == text.lower():
            return choice
    if parameter.type == "bool":
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), text)
    if parameter.is_list:
        return _numbers(text)
    return _as_number(text) if parameter.type in ("int", "float") else text


def _as_number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _numbers(text: str) -> tuple[int | float, ...] | str:
    """The list that a text such as `8/16/24` spells; the text itself where it spells none."""
    numbers = [_as_number(part) for part in text.split("/") if part]
    spelled = tuple(number for number in numbers if not isinstance(number, str))
    return spelled if len(spelled) == len(numbers) else text


def _number(spec: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise AtlasError(f"stack {_shown(spec)}: {name} is {text!r}; give a number") from None


def milder(technique: Technique) -> Choice | None:
    """A setting halfway from the default to the entry's neutral one; None if there is nothing between.

    Numbers meet in the middle; of ordered choices the one after the default is taken.
    """
    setting: dict[str, Setting] = {}
    for name, neutral in (technique.neutral or {}).items():
        parameter = technique.parameters[name]
        default = parameter.default
        if isinstance(default, bool | str | tuple) or isinstance(neutral, bool | str | tuple):
            continue
        middle = (default + neutral) / 2
        if parameter.choices:
            low, high = sorted((default, neutral))
            between = [each for each in parameter.choices if isinstance(each, int | float) and low < each < high]
            middle = min(between, key=lambda each: abs(each - default), default=default)
        elif parameter.type == "int":
            middle = round(middle)
        if middle != default and parameter.problem_with(middle) is None:
            setting[name] = middle
    return Choice(technique, setting) if setting else None


def stacked(
    kb: KnowledgeBase, specs: str | Sequence[str | Choice], model: Model, workload: Workload
) -> tuple[Applied, ...]:
    """A stack, ready for the engine.

    Args:
        kb: the techniques.
        specs: techniques, or texts that join some with `+`.
        model: the model.
        workload: the request.

    Raises:
        AtlasError: a spec is none, a technique stands there twice, two cannot share a request, or one cannot run on
            the model or with the request, or begins beyond its layers.
    """
    choices: list[Choice] = []
    for each in [specs] if isinstance(specs, str) else specs:
        choices += [each] if isinstance(each, Choice) else (parse(kb, part) for part in split(each))
    if why := unfit(choices, model, workload) or conflict(kb, choices):
        raise AtlasError(why)
    ready = tuple(applied(kb.atlas, each.technique, each.setting, each.outcomes) for each in choices)
    for choice, technique in zip(choices, ready, strict=True):
        if choice.setting:
            _require_layers(technique, model)
    return ready


def _require_layers(technique: Applied, model: Model) -> None:
    """Refuse a layer that the model does not have, where its setting alone says which is meant.

    Raises:
        AtlasError: it is beyond the last one.
    """
    for change in technique.changes:
        layers = (model.encoder if change.quantity.startswith("encoder.") else model.llm).layers
        names = {**technique.parameters, "L": layers}
        if getattr(change.from_layer, "names", frozenset()) <= names.keys():
            first = value(change.from_layer, names)
            if first > layers:
                raise AtlasError(f"{technique.id} begins at layer {first:g}, but {model.name} has {layers}; name one")


def unfit(choices: Iterable[Choice], model: Model, workload: Workload) -> str | None:
    """Why one of the techniques cannot run on the model or with the request; None if nothing is known against it."""
    for each in choices:
        if why := problem(each.technique, model, workload):
            return f"{each.technique.id} {why}; leave it out"
    return None


def conflict(kb: KnowledgeBase, choices: Iterable[Choice]) -> str | None:
    """Why the techniques cannot share a request, whichever it is; None if nothing is known against it."""
    for one, two in combinations(choices, 2):
        if one.technique is two.technique:
            return f"the stack has {one.technique.id} twice; leave one out"
        verdict = kb.relation(one.technique.id, two.technique.id)
        if verdict.value == "breaks":
            edge = verdict.edges[0]
            return (
                f"{one.technique.id} and {two.technique.id} cannot share a stack: {edge.reason.rstrip('.')} "
                f"({edge.source}); leave one out"
            )
    return None
