"""How draft heads are trained that read a prompt each in a way of their own.

N tokens of a prompt and its answer, R rows that a head reads of them, M rows, C vocabulary, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from lvlm_atlas.lab.parts.draft import agreement, divergence, drawn_samples
from lvlm_atlas.lab.parts.part_training import Module, PartTraining, Trainable
from lvlm_atlas.lab.training import recipe
from lvlm_atlas.lab.training.batch import UNJUDGED, Batch, batch
from lvlm_atlas.lab.training.reading import encoded, sequence
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.drafting.features import HeadLayer
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.prefill import prefill
from lvlm_atlas.reference.lvlm.technique import Acts
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.ops.attention import attend

Enter = Callable[[Tensor, int], Tensor]
"""From features (M, D) that a head gave, and the step of the draft, to what enters its layer behind them (M, D)."""
FADING = 0.8
"""What the loss of each further step of a draft counts less."""


class Unrolling(Trainable):
    """A head, which learns what the model would say, sample by sample."""

    def __init__(self, part: nn.Module, kind: PromptHead[Any]) -> None:
        super().__init__(part)
        self.kind = kind

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        shown = [batch([each], model.config) for each in drawn_samples(random, self.kind.pictures)]
        return torch.stack([self.kind.loss(model, self.part, each) for each in shown]).mean()


class PromptHead(PartTraining[Module]):
    """A head of one layer that reads a prompt and what it drafts."""

    steps, pictures = 300, recipe.FRAMES // 2
    unrolled = 1
    """Tokens of a draft that a step trains, each behind the head's own features of those before."""
    on_features = True
    """Whether the distance from the model's features counts too."""

    @abstractmethod
    def key(self) -> Hashable:
        """What a model keeps the head under."""

    @abstractmethod
    def begun(self, head: Module) -> None:
        """Set the weights that training begins with, as far as they are not drawn."""

    def kept(self, config: Config, part: Module) -> Mapping[Hashable, nn.Module]:  # noqa: ARG002
        """See `PartTraining`."""
        return {self.key(): part}

    def trainable(self, model: LVLM, seed: int) -> Unrolling:
        """See `PartTraining`."""
        part = drawn(lambda: self.empty(model.config), seed=seed)
        with torch.no_grad():
            self.begun(part)
        return Unrolling(part, self)

    @abstractmethod
    def drafts(self, model: LVLM, head: Module, read: Prefill) -> Iterator[Tensor]:
        """Features (R, D) that the head gives at each row, for one token of a draft after the other.

        The last rows are the last tokens of the prompt, from the first one behind all pictures.
        """

    def logits(self, model: LVLM, head: Module, feature_MD: Tensor) -> Tensor:  # noqa: ARG002
        """Logits (M, C) of the head's features."""
        return model.head(feature_MD)

    def loss(self, model: LVLM, head: Module, shown: Batch) -> Tensor:
        """The loss () of one sample."""
        read = prefilled(model, shown)
        drafts = self.drafts(model, head, read)
        losses = [FADING**step * self.distance(model, head, each, read, shown) for step, each in enumerate(drafts)]
        return torch.stack(losses).sum()

    def distance(self, model: LVLM, head: Module, feature_RD: Tensor, read: Prefill, shown: Batch) -> Tensor:
        """How far (), at the tokens of answers, features and what they say are from the model's."""
        feature_ND, behind = model.final_norm(read.outputs.hidden_BND[0]), behind_pictures(read)
        theirs_BNC = model.head(feature_ND)[None]
        ours_BNC = _at_the_end(self.logits(model, head, feature_RD[-behind:]), theirs_BNC)
        apart = divergence(ours_BNC, theirs_BNC, shown)
        if not self.on_features:
            return apart
        answers_M = shown.target_BN[0, -behind:] != UNJUDGED
        return apart + smooth_l1_loss(feature_RD[-behind:][answers_M], feature_ND[-behind:][answers_M])

    @torch.no_grad()
    def judged(self, model: LVLM, part: Module, samples: int) -> Mapping[str, float]:
        """Shares of drafted tokens that are the model's, by task, each the first of a draft; see `agreement`."""

        def said(shown: Batch) -> tuple[Tensor, Tensor]:
            read = prefilled(model, shown)
            theirs_BNC = model.language_model.logits(read.outputs.hidden_BND)
            first_RD, behind = next(self.drafts(model, part, read)), behind_pictures(read)
            return _at_the_end(self.logits(model, part, first_RD[-behind:]), theirs_BNC), theirs_BNC

        return agreement(model, samples, said)


@torch.no_grad()
def prefilled(model: LVLM, shown: Batch) -> Prefill:
    """What the model makes of a batch of one sample, with what entered each layer."""
    entered = sequence(model, shown, encoded(model, shown.frames_F3HW))
    return prefill(model.language_model, entered, Acts(retain_states=True), Trace())


def behind_pictures(read: Prefill) -> int:
    """Tokens behind the last picture of a prompt."""
    vision_N = read.inputs.vision_BN[0]
    return len(vision_N) - 1 - int(vision_N.nonzero()[-1])


def unrolled(
    layer: HeadLayer, rows_RD: Tensor, position_R: Tensor, steps: int, enter: Enter | None = None
) -> Iterator[Tensor]:
    """Features (R, D) of a layer at its rows, and of further steps behind its own features.

    A row of step s stands behind the feature that step s − 1 gave the row before. It sees the rows of the prompt up to
    the s-th before it, and behind them, of each step in between, the one that drafted the token there.

    Args:
        layer: the head's layer.
        rows_RD: what enters of the prompt.
        position_R: position ids of the rows.
        steps: how many.
        enter: from features (R − 1, D) and the step to what enters at all rows but the first; None: there is one step.
    """
    count, keys, values = len(rows_RD), list[Tensor](), list[Tensor]()
    before_RR = torch.arange(count)[:, None] - torch.arange(count)
    entering_RD = rows_RD
    for step in range(steps):
        query, key, value = layer.project(entering_RD[None], position_R[None])
        keys.append(key)
        values.append(value)
        seen = [before_RR >= step, *(before_RR == step - at for at in range(1, step + 1))]
        attended = attend(query, torch.cat(keys, dim=2), torch.cat(values, dim=2), torch.cat(seen, dim=1))
        out_RD = layer.finish(entering_RD[None], attended)[0]
        yield out_RD
        if enter is not None and step + 1 < steps:
            entering_RD = torch.cat([rows_RD[:1], enter(out_RD[:-1], step + 1)])


def _at_the_end(logits_MC: Tensor, like_BNC: Tensor) -> Tensor:
    """Logits of the last M places as (1, N, C), 0 before."""
    before = like_BNC.shape[1] - len(logits_MC)
    return torch.cat([logits_MC.new_zeros(before, logits_MC.shape[1]), logits_MC])[None]
