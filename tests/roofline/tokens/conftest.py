"""Sizes to compare on, and the published processors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from itertools import product
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
def resolution() -> Any:
    """Qwen2.5-VL's rule of the torch reference."""
    pytest.importorskip("torch")
    return import_module("lvlm_atlas.reference.lvlm.resolution")


@pytest.fixture(scope="session")
def pixels() -> Callable[[int, int], Any]:
    """A small image to process for real, rows and columns first."""
    numpy = pytest.importorskip("numpy")
    return lambda width, height: numpy.zeros((height, width, 3), dtype=numpy.uint8)
