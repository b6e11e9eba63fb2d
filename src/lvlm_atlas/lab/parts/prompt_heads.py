"""Draft heads that read words alone, fused states, or a few tokens of each picture.

R rows of a head, M of a pass, D width, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import torch
from torch import Tensor

from lvlm_atlas.lab.parts.prompt_head import PromptHead, unrolled
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.drafting.features import Prompt, in_place
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.modules.fused_head import FusedHead
from lvlm_atlas.reference.techniques.decoding import vispec
from lvlm_atlas.reference.techniques.decoding.eagle_3 import fused_layers
from lvlm_atlas.reference.techniques.decoding.hivis import SteppedHead, words_of
from lvlm_atlas.reference.techniques.decoding.multi_token_prediction import MultiTokenModule

OTHERWISE = (
    "A divergence from the model's distribution at the tokens of right answers, which most of the model's own are, and "
    "a smooth L1 loss on its features"
)


class MultiTokenTraining(PromptHead[MultiTokenModule]):
    """The module for multi-token prediction."""

    summary = "a layer that predicts one token further"
    departs = f"{OTHERWISE}, for two tokens of a draft; the model is not trained with it, as in the papers."
    unrolled = 2

    def key(self) -> Hashable:
        """See `PromptHead`."""
        return "multi-token-module"

    def empty(self, config: Config) -> MultiTokenModule:
        """See `PartTraining`."""
        return MultiTokenModule(config.text)

    def begun(self, head: MultiTokenModule) -> None:
        """See `PromptHead`."""

    def drafts(self, model: LVLM, head: MultiTokenModule, read: Prefill) -> Iterator[Tensor]:
        """See `PromptHead`."""
        prompt = Prompt.of(model, read)
        rows_RD = head.enter(prompt.embed_ND[1:], prompt.feature_ND[:-1])

        def enter(feature_MD: Tensor, step: int) -> Tensor:  # noqa: ARG001 - alike at each
            return head.enter(prompt.embed_ND[2:], feature_MD)

        return unrolled(head, rows_RD, prompt.position_N[1:], self.unrolled, enter)


class SteppedHeadTraining(PromptHead[SteppedHead]):
    """The head of HiViS."""

    summary = "a draft head of one layer that reads words alone, and which step of a draft it is at"
    departs = f"{OTHERWISE}, for six tokens of a draft; the paper's stages are not told apart."
    unrolled = 6

    def key(self) -> Hashable:
        """See `PromptHead`."""
        return "hivis"

    def empty(self, config: Config) -> SteppedHead:
        """See `PartTraining`."""
        return SteppedHead(config.text)

    def begun(self, head: SteppedHead) -> None:
        """See `PromptHead`: steps begin alike."""
        head.step_SD.zero_()

    def drafts(self, model: LVLM, head: SteppedHead, read: Prefill) -> Iterator[Tensor]:
        """See `PromptHead`."""
        words = words_of(Prompt.of(model, read))
        rows_RD = head.enter_at(words.embed_ND[1:], words.feature_ND[:-1], 0)

        def enter(feature_MD: Tensor, step: int) -> Tensor:
            return head.enter_at(words.embed_ND[2:], feature_MD, step)

        return unrolled(head.layer, rows_RD, words.position_N[1:], self.unrolled, enter)


class FusedHeadTraining(PromptHead[FusedHead]):
    """The head of EAGLE-3."""

    summary = "a draft head of one layer on states of three depths of the model"
    departs = (
        "A divergence from the model's distribution at the tokens of right answers, which most of the model's own are, "
        "for three tokens of a draft; the paper trains seven on answers of the model."
    )
    unrolled, on_features = 3, False

    def key(self) -> Hashable:
        """See `PromptHead`."""
        return "eagle-3"

    def empty(self, config: Config) -> FusedHead:
        """See `PartTraining`."""
        return FusedHead(config.text)

    def begun(self, head: FusedHead) -> None:
        """See `PromptHead`."""

    def drafts(self, model: LVLM, head: FusedHead, read: Prefill) -> Iterator[Tensor]:
        """See `PromptHead`."""
        which = fused_layers(model.config.text.num_hidden_layers)
        prompt = Prompt.with_features(read, head.fuse([in_place(read, *read.states[layer]) for layer in which]))
        rows = head.enter(prompt.embed_ND[1:], prompt.feature_ND[:-1])

        def enter(feature_MD: Tensor, step: int) -> Tensor:  # noqa: ARG001 - alike at each
            return head.enter(prompt.embed_ND[2:], feature_MD)

        return unrolled(head, rows, prompt.position_N[1:], self.unrolled, enter)

    def logits(self, model: LVLM, head: FusedHead, feature_MD: Tensor) -> Tensor:  # noqa: ARG002
        """See `PromptHead`: by its own head."""
        return head.logits(feature_MD)


class VisionAwareHeadTraining(PromptHead[vispec.VisionAwareHead]):
    """The head of ViSpec."""

    summary = "a draft head of one layer that sees a picture as a learned token, and its gist at every word behind"
    departs = f"{OTHERWISE}; the paper trains on long answers of the model."
    queries = vispec.ViSpec().num_q

    def key(self) -> Hashable:
        """See `PromptHead`."""
        return "vispec", self.queries

    def empty(self, config: Config) -> vispec.VisionAwareHead:
        """See `PartTraining`."""
        return vispec.VisionAwareHead(config.text, self.queries)

    def begun(self, head: vispec.VisionAwareHead) -> None:
        """See `PromptHead`: the projection of the gist begins as the identity on features."""
        weight_DE = head.img_fc.weight
        weight_DE.copy_(torch.eye(*weight_DE.shape))
        head.img_fc.bias.zero_()

    def drafts(self, model: LVLM, head: vispec.VisionAwareHead, read: Prefill) -> Iterator[Tensor]:
        """See `PromptHead`."""
        rows_RD, position_R, _ = vispec.rows_of(Prompt.of(model, read), head.adaptor, head.enter_after)
        return unrolled(head.layer, rows_RD, position_R, self.unrolled)
