"""Techniques made from their entries, those that need it calibrated on requests drawn from a seed."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from lvlm_atlas.needs import CALIBRATION
from lvlm_atlas.reference.lvlm import LVLM, Request, Technique, random_request
from lvlm_atlas.schema.record import Setting

SAMPLES = 3
"""Requests to calibrate on."""


def samples(lvlm: LVLM) -> list[Request]:
    """Requests without content, unlike in frames and text; none of them is one that the lab runs."""
    return [
        random_request(lvlm.config, frames=1 + seed, text_tokens=8 + 4 * seed, max_new_tokens=4, seed=1000 + seed)
        for seed in range(SAMPLES)
    ]


def built(
    reference: str, setting: Mapping[str, Setting], lvlm: LVLM, drawn: Callable[[LVLM], list[Request]] = samples
) -> Technique:
    """A technique ready to run on a model; what is fitted to a model is fitted once.

    Args:
        reference: `module:Class`.
        setting: its parameters; those left out have their defaults.
        lvlm: the model.
        drawn: makes the requests to calibrate on.

    Raises:
        ValueError: an illegal setting, or one that cannot be calibrated on this model.
    """
    technique: Technique = pkgutil.resolve_name(reference)(**setting)
    return _calibrated(lvlm, technique, drawn) if CALIBRATION in technique.needs else technique


def forget() -> None:
    """Forget what was calibrated, and the models it was calibrated on."""
    _calibrated.cache_clear()


@cache
def _calibrated(lvlm: LVLM, technique: Technique, drawn: Callable[[LVLM], list[Request]]) -> Any:
    return technique.calibrate(lvlm, drawn(lvlm))
