"""A small language model that drafts from the model's own vision tokens.

B samples, N tokens, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from lvlm_atlas.lab.parts.draft import agreement, divergence, drawn_batch
from lvlm_atlas.lab.parts.part_training import PartTraining, Trainable
from lvlm_atlas.lab.training import recipe
from lvlm_atlas.lab.training.batch import Batch
from lvlm_atlas.lab.training.reading import encoded, logits, sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.prefill import prefill
from lvlm_atlas.reference.lvlm.technique import Acts
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.techniques.decoding.massv import Massv, SeeingDrafter

LAYERS = Massv().layers
"""Of the small model: the technique's default."""


def said(model: LVLM, drafter: SeeingDrafter, shown: Batch) -> tuple[Tensor, Tensor]:
    """What drafter and model say at each place, logits (B, N, C) each."""
    with torch.no_grad():
        entered = sequence(model, shown, encoded(model, shown.frames_F3HW))
        theirs_BNC = logits(model, entered)
    read = drafter.read(entered, shown.ids_BN[~entered.vision_BN])
    left = prefill(drafter.language_model, read, Acts(), Trace()).outputs
    return drafter.language_model.logits(left.hidden_BND), theirs_BNC


class Drafting(Trainable):
    """A drafter, which learns the model's distributions at the tokens of answers."""

    part: SeeingDrafter

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        shown = drawn_batch(model, random)
        return divergence(*said(model, self.part, shown), shown)


class SeeingDrafterTraining(PartTraining[SeeingDrafter]):
    """The drafter of MASSV."""

    summary = "a small language model that drafts from the model's own vision tokens"
    departs = (
        "Begins with the first layers of the model's decoder and is trained at once, on the model's distributions at "
        "the tokens of right answers; the paper trains the projector first, then on answers of the model."
    )
    steps, pictures = 300, recipe.FRAMES

    def kept(self, config: Config, part: SeeingDrafter) -> Mapping[Hashable, nn.Module]:  # noqa: ARG002
        """See `PartTraining`."""
        return {("massv", LAYERS): part}

    def empty(self, config: Config) -> SeeingDrafter:
        """See `PartTraining`."""
        return SeeingDrafter(replace(config.text, num_hidden_layers=LAYERS), config.text.hidden_size)

    def trainable(self, model: LVLM, seed: int) -> Drafting:
        """See `PartTraining`."""
        part, theirs = drawn(lambda: self.empty(model.config), seed=seed), model.state_dict()
        ours = part.language_model.state_dict()
        part.language_model.load_state_dict({name: theirs[f"language_model.{name}"] for name in ours})
        return Drafting(part)

    @torch.no_grad()
    def judged(self, model: LVLM, part: SeeingDrafter, samples: int) -> Mapping[str, float]:
        """Shares of drafted tokens that are the model's, by task; see `agreement`."""
        return agreement(model, samples, lambda shown: said(model, part, shown))
