"""Trains a part of a model, the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from lvlm_atlas.lab.parts.lesson import Lesson, Pupil
from lvlm_atlas.lab.training import recipe
from lvlm_atlas.reference.lvlm.model import LVLM


def train(lesson: Lesson, model: LVLM, pupil: Pupil, seed: int) -> Iterator[float]:
    """Train to the end; yields the loss after each step. The rates are those of the model's recipe."""
    matrices = [each for name, each in pupil.named_parameters() if each.dim() == 2 and "embed" not in name]
    ids = {id(each) for each in matrices}
    others = [each for each in pupil.parameters() if id(each) not in ids]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.MATRIX_RATE, weight_decay=recipe.DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.OTHER_RATE, betas=(0.9, 0.98), weight_decay=recipe.DECAY),
    ]
    rates = [group["lr"] for one in optimisers for group in one.param_groups]
    for step in range(lesson.steps):
        share = min(1.0, (step + 1) / recipe.WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * step / lesson.steps))
        for group, rate in zip((each for one in optimisers for each in one.param_groups), rates, strict=True):
            group["lr"] = rate * share
        with torch.enable_grad():
            loss = pupil(model, np.random.default_rng((seed, step)))
            loss.backward()
        nn.utils.clip_grad_norm_([each for each in pupil.parameters() if each.grad is not None], recipe.CLIP)
        for one in optimisers:
            one.step()
            one.zero_grad()
        yield float(loss.detach())
    pupil.requires_grad_(requires_grad=False)
