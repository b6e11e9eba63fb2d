"""How well a model answers on pictures that were held back, and on none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lvlm_atlas.lab.curves.asking import ask
from lvlm_atlas.lab.curves.curve import halved
from lvlm_atlas.lab.tasks.task import TASKS
from lvlm_atlas.reference.lvlm.model import LVLM

CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "accuracy": lambda frames: frames, "blind": torch.zeros_like, "downsampled": halved,
}  # fmt: skip
"""What happens to the pictures, by the field of the record that tells what comes of it."""


def judged(model: LVLM, samples: int, advance: Callable[[str], Any]) -> dict[str, dict[str, float]]:
    """Shares of questions answered rightly: `accuracy`, `blind` and `downsampled`, each by task."""
    shares: dict[str, dict[str, float]] = {change: {} for change in CHANGES}
    for name, task in TASKS.items():
        drawn = [task.sample(number) for number in range(samples)]
        for change, changed in CHANGES.items():
            right = [each for sample in drawn for each in ask(model, task, sample, tuple, changed).right]
            shares[change][name] = round(sum(right) / len(right), 4)
        advance(name)
    return shares
