"""Trains a part of a model, the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from lvlm_atlas.lab.parts.part_training import PartTraining, Trainable
from lvlm_atlas.lab.training import recipe
from lvlm_atlas.lab.training.optimisers import Optimisers
from lvlm_atlas.reference.lvlm.model import LVLM


def train(training: PartTraining[Any], model: LVLM, trainable: Trainable, seed: int) -> Iterator[float]:
    """Train to the end; yields the loss after each step. The rates are those of the model's recipe."""
    optimisers = Optimisers(trainable.named_parameters())
    for step in range(training.steps):
        share = min(1.0, (step + 1) / recipe.WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * step / training.steps))
        with torch.enable_grad():
            loss = trainable(model, np.random.default_rng((seed, step)))
            loss.backward()
        optimisers.step(share)
        yield float(loss.detach())
    trainable.requires_grad_(requires_grad=False)
