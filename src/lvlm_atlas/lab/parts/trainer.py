"""Trains a part of a model: step by step, resumable, the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lvlm_atlas.lab.parts.part_training import PartTraining, Trainable
from lvlm_atlas.lab.training import interrupted, recipe
from lvlm_atlas.lab.training.optimisers import Optimisers
from lvlm_atlas.reference.lvlm.model import LVLM


@dataclass
class PartTrainer:
    """A part in training. The rates are those of the model's recipe.

    Args:
        training: how it is trained.
        model: the model that it is for.
        seed: of its first weights and of all that it is shown.
        kept: the file that a run is kept in, and goes on from.
    """

    training: PartTraining[Any]
    model: LVLM
    seed: int
    kept: Path
    step: int = field(init=False, default=0)
    trainable: Trainable = field(init=False)

    def __post_init__(self) -> None:
        self.trainable = self.training.trainable(self.model, self.seed)
        self._optimisers = Optimisers(self.trainable.named_parameters())
        if state := interrupted.kept(self.kept):
            self.step = state["step"]
            self.trainable.load_state_dict(state["trainable"])
            self._optimisers.load(state["optimisers"])

    def run(self) -> Iterator[float]:
        """Train to the end; yields the loss after each step."""
        while self.step < self.training.steps:
            loss = self._one()
            self.step += 1
            if self.step % interrupted.SAVE_EVERY == 0 or self.step == self.training.steps:
                self._keep()
            yield loss
        self.trainable.requires_grad_(requires_grad=False)

    def _one(self) -> float:
        self.trainable.done = self.step / self.training.steps
        share = min(1.0, (self.step + 1) / recipe.WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * self.trainable.done))
        with torch.enable_grad():
            loss = self.trainable(self.model, np.random.default_rng((self.seed, self.step)))
            loss.backward()
        self._optimisers.step(share)
        return float(loss.detach())

    def _keep(self) -> None:
        interrupted.keep(self.kept, {
            "step": self.step, "trainable": self.trainable.state_dict(), "optimisers": self._optimisers.state(),
        })  # fmt: skip
