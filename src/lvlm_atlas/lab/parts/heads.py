"""Draft heads of one layer on the model's last features.

B samples, N tokens, D width, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from lvlm_atlas.lab.parts.draft import agreement, divergence, drawn_batch
from lvlm_atlas.lab.parts.part_training import PartTraining, Trainable
from lvlm_atlas.lab.training import recipe
from lvlm_atlas.lab.training.batch import UNJUDGED, Batch
from lvlm_atlas.lab.training.reading import encoded, sequence, states
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.modules.feature_head import FeatureHead
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.ops.attention import attend, causal_mask
from lvlm_atlas.reference.techniques.decoding.msd import decouple


class Following(Trainable):
    """A head, which learns the model's next feature and what the model would say of it.

    Args:
        part: the head.
        kind: whose rows it reads.
    """

    part: FeatureHead

    def __init__(self, part: FeatureHead, kind: FeatureHeadTraining) -> None:
        super().__init__(part)
        self.kind = kind

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        shown = drawn_batch(model, random)
        ours_BND, theirs_BND = self.kind.features(model, self.part, shown)
        answers_BN = shown.target_BN != UNJUDGED
        near = smooth_l1_loss(ours_BND[answers_BN], theirs_BND[answers_BN])
        return near + divergence(model.head(ours_BND), model.head(theirs_BND), shown)


class FeatureHeadTraining(PartTraining[FeatureHead]):
    """The head of EAGLE, on the model's own features."""

    summary = "a draft head of one layer on the model's features"
    departs = (
        "A smooth L1 loss on features and a divergence from the model's distribution, weighted alike, at the tokens of "
        "right answers, which most of the model's own are; no noise on what the head reads."
    )
    steps, pictures = 300, recipe.FRAMES

    def kept(self, config: Config, part: FeatureHead) -> Mapping[Hashable, nn.Module]:  # noqa: ARG002
        """See `PartTraining`."""
        return {"feature-head": part}

    def rows(self, head: FeatureHead, entered: Sequence, feature_BND: Tensor) -> Tensor:
        """What enters the head's layer (B, N − 1, D), as the technique has it.

        Args:
            head: the head.
            entered: what enters the LLM.
            feature_BND: the model's features.
        """
        return head.enter(entered.hidden_BND[:, 1:], feature_BND[:, :-1])

    def features(self, model: LVLM, head: FeatureHead, shown: Batch) -> tuple[Tensor, Tensor]:
        """The head's features and the model's (B, N, D), alike at the first token, before which there is none."""
        with torch.no_grad():
            entered = sequence(model, shown, encoded(model, shown.frames_F3HW))
            feature_BND = model.final_norm(states(model, entered))
        rows_BND = self.rows(head, entered, feature_BND)
        query, key, value = head.layer.project(rows_BND, entered.position_BN[:, 1:])
        seen = attend(query, key, value, causal_mask(rows_BND.shape[1], rows_BND.device))
        ours_BND = head.layer.finish(rows_BND, seen)
        return torch.cat([feature_BND[:, :1], ours_BND], dim=1), feature_BND

    def empty(self, config: Config) -> FeatureHead:
        """See `PartTraining`."""
        return FeatureHead(config.text)

    def trainable(self, model: LVLM, seed: int) -> Following:
        """See `PartTraining`."""
        return Following(drawn(lambda: self.empty(model.config), seed=seed), self)

    @torch.no_grad()
    def judged(self, model: LVLM, part: FeatureHead, samples: int) -> Mapping[str, float]:
        """Shares of drafted tokens that are the model's, by task; see `agreement`."""

        def said(shown: Batch) -> tuple[Tensor, Tensor]:
            ours_BND, theirs_BND = self.features(model, part, shown)
            return model.head(ours_BND), model.head(theirs_BND)

        return agreement(model, samples, said)


class DecoupledHeadTraining(FeatureHeadTraining):
    """The head of MSD, which reads vision tokens as they are."""

    summary = "a draft head of one layer on the model's features, which reads vision tokens as they are"
    departs = (
        f"{FeatureHeadTraining.departs} Of all tasks at once; the paper trains on text first, then on more images."
    )

    def kept(self, config: Config, part: FeatureHead) -> Mapping[Hashable, nn.Module]:  # noqa: ARG002
        """See `PartTraining`."""
        return {"msd": part}

    def rows(self, head: FeatureHead, entered: Sequence, feature_BND: Tensor) -> Tensor:
        """See `FeatureHeadTraining`."""
        embed_BND, vision_BN = entered.hidden_BND[:, 1:], entered.vision_BN[:, 1:]
        rows_MD = decouple(
            head.enter, embed_BND.flatten(0, 1), feature_BND[:, :-1].flatten(0, 1), vision_BN.flatten(0, 1)
        )
        return rows_MD.reshape(embed_BND.shape)
