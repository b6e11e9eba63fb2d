"""The defaults of classes of configurations are those of transformers, which no command imports."""

from __future__ import annotations

import warnings
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest

from lvlm_atlas.drafts.model.defaults import DEFAULTS

ELSEWHERE = {
    "DeepseekVLV2TextConfig", "InternVisionConfig", "InternVLChatConfig", "MlpProjectorConfig", "MoonViTConfig",
}  # fmt: skip
"""Classes that are not in transformers."""
DERIVED = {"sliding_window_pattern": "_sliding_window_pattern"}
"""Names that transformers gives keys of files."""


def configuration(name: str) -> Any:
    """An instance of a class, wherever its module is."""
    transformers = pytest.importorskip("transformers")
    if hasattr(transformers, name):
        return getattr(transformers, name)()
    models = import_module("transformers.models")
    for module in iter_modules(models.__path__):
        if module.name.replace("_", "") in name.lower().replace("_", ""):
            held = import_module(f"transformers.models.{module.name}.configuration_{module.name}")
            if hasattr(held, name):
                return getattr(held, name)()
    raise AssertionError(f"transformers has no {name}")


@pytest.mark.parametrize("name", sorted(DEFAULTS.keys() - ELSEWHERE))
def test_defaults_are_those_of_the_class(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = configuration(name)
    for key, value in DEFAULTS[name].items():
        name_ = DERIVED.get(key, key)
        got = getattr(type(made), name_, None)  # where layers may differ, instances do not answer for all
        got = getattr(made, name_) if got is None or isinstance(got, property) else got
        square = isinstance(got, (list, tuple)) and not isinstance(value, list)
        assert (got[0] if square else list(got) if isinstance(got, tuple) else got) == value, key
