"""Sizes to compare on, and the published processors."""

from __future__ import annotations

import ast
import itertools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest

SIDES = (1, 13, 27, 28, 29, 97, 224, 255, 336, 337, 384, 448, 500, 561, 672, 719, 1000, 1080, 1344, 1537, 1920, 4096)
EXTREMES = (
    (30_000, 151),
    (151, 30_000),
    (40_000, 1),
    (7, 1400),
    (13_377, 13_377),
    (1280, 720),
    (1440, 1080),
    (641, 480),
    (600, 500),
    (256, 512),
    (1024, 256),
)


@pytest.fixture(scope="session")
def sizes() -> list[tuple[int, int]]:
    """Some 500 (width, height), odd and extreme ones among them."""
    return [*product(SIDES, repeat=2), *EXTREMES]


@pytest.fixture(scope="session")
def published() -> Callable[[str, str], Any]:
    """A name in a module of transformers; without that the test is skipped, visibly.

    Processors are the ones for Pillow: those for torchvision have the same rules, and need torchvision.
    """

    def look_up(module: str, name: str) -> Any:
        library = pytest.importorskip("transformers")
        library.utils.logging.set_verbosity_error()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip(f"transformers.{module}", exc_type=ImportError)
            return getattr(import_module(f"transformers.{module}"), name)

    return look_up


@pytest.fixture(scope="session")
def published_alone() -> Callable[..., Any]:
    """A function of a module of transformers that needs torchvision, with those that it calls, without importing it."""

    def look_up(module: str, name: str, *others: str) -> Any:
        pytest.importorskip("transformers")
        spec = find_spec(f"transformers.{module}")
        assert spec
        assert spec.origin
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        kept = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name in (name, *others)]
        assert len(kept) == 1 + len(others)
        for each in kept:
            each.decorator_list = []
        names: dict[str, Any] = {
            "math": math,
            "defaultdict": defaultdict,
            "itertools": itertools,
            "torch": pytest.importorskip("torch"),
        }
        future = ast.parse("from __future__ import annotations").body
        exec(compile(ast.Module(future + kept, []), spec.origin, "exec"), names)  # noqa: S102 - the library's own
        return names[name]

    return look_up


@pytest.fixture(scope="session")
def resolution() -> Any:
    """Qwen2.5-VL's rule of the torch reference."""
    pytest.importorskip("torch")
    return import_module("lvlm_atlas.reference.lvlm.resolution")


@pytest.fixture(scope="session")
def pixels() -> Callable[[int, int], Any]:
    """A small image to process for real, rows and columns first."""
    numpy = pytest.importorskip("numpy")
    return lambda width, height: numpy.zeros((height, width, 3), dtype=numpy.uint8)
