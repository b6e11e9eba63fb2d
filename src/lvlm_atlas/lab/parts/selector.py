"""A scorer that rates vision tokens before the language model, without a question.

B samples, N tokens, V vision tokens, D width.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from lvlm_atlas.lab.parts.draft import divergence, drawn_batch, said
from lvlm_atlas.lab.parts.part_training import PartTraining, Trainable
from lvlm_atlas.lab.tasks.task import TASKS
from lvlm_atlas.lab.training import recipe
from lvlm_atlas.lab.training.batch import batch
from lvlm_atlas.lab.training.reading import encoded, logits, sequence
from lvlm_atlas.reference.lvlm.config import Config, LVLMConfig
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.modules.importance import ImportanceScorer
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.ops.places import take

SHARES = (0.1, 0.5)
"""Of vision tokens that stay, between which each step draws."""
SHARPNESS = (1.0, 10.0)
"""Of the soft selection at the first and the last step."""
HALVINGS = 30
"""Of the interval in which the threshold lies."""


def soft_selection(score_BV: Tensor, count: float, sharpness: float) -> Tensor:
    """How far each token is selected (B, V), from 0 to 1, `count` of them in sum: a sigmoid beside a threshold.

    Args:
        score_BV: the scores.
        count: in sum, between 0 and V.
        sharpness: of the sigmoid; the larger, the nearer to the best `count` alone.
    """
    low_B1, high_B1 = (
        score_BV.detach().amin(1, keepdim=True) - 10 / sharpness,
        score_BV.detach().amax(1, keepdim=True) + 10 / sharpness,
    )
    for _ in range(HALVINGS):
        middle_B1 = (low_B1 + high_B1) / 2
        over_B1 = torch.sigmoid(sharpness * (score_BV.detach() - middle_B1)).sum(1, keepdim=True) > count
        low_B1, high_B1 = torch.where(over_B1, middle_B1, low_B1), torch.where(over_B1, high_B1, middle_B1)
    return torch.sigmoid(sharpness * (score_BV - (low_B1 + high_B1) / 2))


class Selecting(Trainable):
    """A scorer, with whose selection the model learns to say what it says with all tokens."""

    part: ImportanceScorer

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        shown, share = drawn_batch(model, random), float(random.uniform(*SHARES))
        sharpness = SHARPNESS[0] + (SHARPNESS[1] - SHARPNESS[0]) * self.done
        with torch.no_grad():
            entered, theirs_BNC = sequence(model, shown, encoded(model, shown.frames_F3HW)), said(model, shown)
        place_BV = entered.vision_places()
        token_BVD = take(entered.hidden_BND, place_BV)
        score_BV = self.part(token_BVD)
        unit_BV = (score_BV - score_BV.mean(1, keepdim=True)) / (score_BV.std(1, keepdim=True) + 1e-4)
        token_BVD = token_BVD * soft_selection(unit_BV, share * score_BV.shape[1], sharpness)[..., None]
        hidden_BND = entered.hidden_BND.scatter(1, place_BV[..., None].expand_as(token_BVD), token_BVD)
        return divergence(logits(model, replace(entered, hidden_BND=hidden_BND)), theirs_BNC, shown)


class Selector(PartTraining[ImportanceScorer]):
    """The scorer."""

    summary = "a scorer of vision tokens, by their queries and keys among each other"
    departs = (
        "Tokens that are not selected fade to 0 where they stand, and the model learns to say what it says with all; "
        "the threshold is found by halving an interval, and half of the tokens to a tenth stay, as each step draws."
    )
    steps, pictures = 300, recipe.FRAMES

    def suits(self, config: Config) -> bool:
        """Whether there is a vision token for each patch."""
        return isinstance(config, LVLMConfig)

    def kept(self, config: Config, part: ImportanceScorer) -> Mapping[Hashable, nn.Module]:  # noqa: ARG002
        """See `PartTraining`."""
        return {ImportanceScorer: part}

    def empty(self, config: Config) -> ImportanceScorer:
        """See `PartTraining`."""
        return ImportanceScorer(config.text.hidden_size, config.text.hidden_size // 2)

    def trainable(self, model: LVLM, seed: int) -> Selecting:
        """See `PartTraining`."""
        return Selecting(drawn(lambda: self.empty(model.config), seed=seed))

    @torch.no_grad()
    def judged(self, model: LVLM, part: ImportanceScorer, samples: int) -> Mapping[str, float]:
        """Shares of the best quarter of tokens that show things, labels or charts; and of all tokens."""
        shares = dict[str, float]()
        for name in ("where", "read", "chart"):
            best, chance = 0.0, 0.0
            for number in range(samples):
                shown = batch([TASKS[name].sample(number)], model.config)
                entered = sequence(model, shown, encoded(model, shown.frames_F3HW))
                score_V = part(take(entered.hidden_BND, entered.vision_places()))[0]
                shows_V = (shown.shown_TP.flatten() != 0).float()
                best += float(shows_V[score_V.topk(len(score_V) // 4).indices].mean())
                chance += float(shows_V.mean())
            shares |= {name: round(best / samples, 4), f"{name} by chance": round(chance / samples, 4)}
        return shares
