"""Token rules: from the pixels of a request's images and videos to encoder patches and vision tokens.

One module a family. A module is a rule if it holds a function of its own name, so a new family is a new file and no
list is kept. A rule for images takes the (width, height) of all images of one request, since some families tile an
image only when it comes alone; a rule for videos (`video_…`) takes width, height and the frames already sampled. Their
keyword arguments are the constants of a model's record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

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


@cache
def _modules() -> tuple[str, ...]:
    return tuple(module.name for module in iter_modules(__path__))


def _in_module(name: str) -> Rule | None:
    found: Rule | None = getattr(import_module(f"{__name__}.{name}"), name, None)
    return found
