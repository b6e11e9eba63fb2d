"""Encoders that take the place of the model's own, and learn first to give its features, then to have it say the same.

F frames, P patches of one, N patches of the model's own encoder, D width.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lvlm_atlas.lab.parts.draft import drawn_samples
from lvlm_atlas.lab.parts.imitation import Imitating, Imitation, request_on
from lvlm_atlas.lab.training.batch import batch
from lvlm_atlas.lab.training.reading import encoded
from lvlm_atlas.reference.lvlm.contexts import Encoder
from lvlm_atlas.reference.lvlm.model import LVLM

LOOKING = 0.85
"""Share of the steps in which the features alone are learned."""


def pooled(feature_FND: Tensor, patches: int) -> Tensor:
    """Features of a square of patches, as a square of so many (F, P, D), each the mean of those that it covers."""
    side, ours = math.isqrt(feature_FND.shape[1]), math.isqrt(patches)
    square_FDRC = feature_FND.mT.unflatten(2, (side, side))
    return adaptive_avg_pool2d(square_FDRC, ours).flatten(2).mT


class EncoderImitating(Imitating):
    """An encoder in training."""

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        if self.done >= LOOKING:
            return super().forward(model, random)
        samples = drawn_samples(random, self.kind.pictures, self.kind.kinds)
        return self._missed(model, batch(samples, model.config).frames_F3HW)

    def _missed(self, model: LVLM, frames_F3HW: Tensor) -> Tensor:
        """The share of the variance of the model's own features that ours miss."""
        with torch.no_grad():
            own = encoded(model, frames_F3HW)
        (acting,) = model.begin(request_on(frames_F3HW[:1], model.config), [self.kind.technique]).acts.at("encoder")
        ours_FPD = model.dialect.features(acting.encode(Encoder(frames_F3HW, lambda _: own.patches)))
        aim_FPD = pooled(own.feature_TPD, ours_FPD.shape[1])
        return (ours_FPD - aim_FPD).square().mean() / aim_FPD.var()


class EncoderImitation(Imitation):
    """An encoder that a technique brings along."""

    departs = (
        "The encoder alone is trained: first to give the features of the model's own, the mean of those that a patch "
        "covers, then to have the model say what it says with its own. The papers train encoders on pairs of pictures "
        "and texts, and the language model with them."
    )
    steps = 1_200

    def trainable(self, model: LVLM, seed: int) -> EncoderImitating:
        """See `PartTraining`."""
        return EncoderImitating(super().trainable(model, seed).part, self)
