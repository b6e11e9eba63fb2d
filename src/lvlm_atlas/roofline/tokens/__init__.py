"""Token rules: from the pixels of a request's images and videos to encoder patches and vision tokens.

One module a family. A module is a rule if it holds a function of its own name, so a new family is a new file and no
list is kept. A rule for images takes the (width, height) of all images of one request, since some families tile an
image only when it comes alone; a rule for videos (`video_…`) takes width, height and the frames already sampled. Their
keyword arguments are the constants of a model's record.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.roofline.visual import Visual

Rule = Callable[..., Visual]
"""`(sizes, **params)` for images, `(width, height, frames, **params)` for videos."""


@cache
def rules() -> Mapping[str, Rule]:
    """Every rule by its name."""
    found = {name: _in_module(name) for name in _modules()}
    return {name: function for name, function in found.items() if function is not None}


@cache
def rule(name: str) -> Rule:
    """The rule of a name, as the models' records spell it. Only its own module is imported.

    Raises:
        AtlasError: there is no such rule.
    """
    found = _in_module(name) if name in _modules() else None
    if found is None:
        raise AtlasError(f"there is no token rule {name!r}; {suggestion(name, rules())}")
    return found


def unfit_arguments(name: str, arguments: int, params: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the constants of a rule: unknown or missing names, and values of another type than it takes.

    Args:
        name: the rule.
        arguments: how many arguments it gets besides.
        params: the constants.

    Raises:
        AtlasError: there is no such rule.
    """
    signature = inspect.signature(rule(name))
    takes = ", ".join([*signature.parameters][arguments:])
    try:
        signature.bind(*range(arguments), **params)
    except TypeError as error:
        yield f"{name} does not take these arguments: {error}; it takes {takes}"
        return
    for key, hint in get_type_hints(rule(name)).items():
        if key in params and not _is_of(params[key], hint):
            yield f"{name}: {key} is {params[key]!r}; give {getattr(hint, '__name__', hint)}"


def _is_of(value: object, hint: Any) -> bool:
    """Whether a value is what an annotation says: a plain type, a union of such, or a sequence of them."""
    if hint is Any:
        return True
    parts = get_args(hint)
    if isinstance(hint, UnionType):
        return any(_is_of(value, part) for part in parts)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_is_of, value, parts))
    if parts:
        return isinstance(value, tuple) and all(_is_of(each, parts[0]) for each in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


@cache
def _modules() -> tuple[str, ...]:
    return tuple(module.name for module in iter_modules(__path__))


def _in_module(name: str) -> Rule | None:
    found: Rule | None = getattr(import_module(f"{__name__}.{name}"), name, None)
    return found
