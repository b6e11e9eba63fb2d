"""The network of FastVLM's self-speculation, which stands in for the model's last layers.

L layers, N tokens, M behind all pictures, C vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import torch
from torch import Tensor

from lvlm_atlas.lab.parts.prompt_head import PromptHead, behind_pictures
from lvlm_atlas.lab.training.batch import Batch
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.techniques.decoding.fastvlm_self_speculative import (
    FastVlmSelfSpeculative,
    ImitationNetwork,
    imitation_loss,
)
from lvlm_atlas.schema.record import Setting

LAYERS = 2
"""That draft: half of the lab's models."""


class EarlyExitTraining(PromptHead[ImitationNetwork]):
    """The network."""

    summary = "a network that stands in for the last two layers of the model"
    departs = (
        "The paper's loss, and a divergence from the model's distribution at the tokens of right answers, which most "
        "of the model's own are; the model is not trained with it."
    )
    on_features = False

    def key(self) -> Hashable:
        """See `PromptHead`."""
        return "fastvlm-imitation", LAYERS

    def setting(self, reference: str) -> dict[str, Setting] | None:
        """See `PartTraining`."""
        ours = f"{FastVlmSelfSpeculative.__module__}:{FastVlmSelfSpeculative.__name__}"
        return {"exit_layer": LAYERS} if reference == ours else None

    def empty(self, config: Config) -> ImitationNetwork:
        """See `PartTraining`."""
        return ImitationNetwork(config.text.hidden_size)

    def begun(self, head: ImitationNetwork) -> None:
        """See `PromptHead`: it begins as the identity."""
        head.down.weight.zero_()
        head.down.bias.zero_()

    def drafts(self, model: LVLM, head: ImitationNetwork, read: Prefill) -> Iterator[Tensor]:  # noqa: ARG002
        """See `PromptHead`: what would leave the last layer (N, D)."""
        yield head(read.states[LAYERS][0][0])

    def logits(self, model: LVLM, head: ImitationNetwork, feature_MD: Tensor) -> Tensor:  # noqa: ARG002
        """See `PromptHead`: under the final norm."""
        return model.language_model.logits(feature_MD)

    def distance(self, model: LVLM, head: ImitationNetwork, feature_RD: Tensor, read: Prefill, shown: Batch) -> Tensor:
        """See `PromptHead`: beside it, the paper's loss."""
        deep = [*(state[0] for state, _ in read.states[LAYERS + 1 :]), read.outputs.hidden_BND[0]]
        behind = behind_pictures(read)
        imitated = imitation_loss(feature_RD[-behind:], torch.stack(deep)[:, -behind:])
        return imitated + super().distance(model, head, feature_RD, read, shown)
