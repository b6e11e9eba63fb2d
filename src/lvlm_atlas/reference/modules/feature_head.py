"""The head of EAGLE: one decoder layer on a token's embedding and the target's feature of the place before it.

Paper: li2024eagle, sec. 3.1; code: SafeAILab/EAGLE, eagle/model/cnets1.py (`Model`: `fc`, then a layer of the target's
kind without its first norm; no norm behind it).

M tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.config import TextConfig
from lvlm_atlas.reference.lvlm.decoder import Layer


class FeatureHead(nn.Module):
    """`fc` from (embedding, feature) to the width of the layer, and the layer.

    Args:
        config: shapes of the target's decoder.
        input_norm: whether the layer keeps the norm before its attention.
    """

    def __init__(self, config: TextConfig, *, input_norm: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.layer = Layer(config)
        if not input_norm:
            self.layer.add_module("input_layernorm", nn.Identity())

    def enter(self, embed_MD: Tensor, feature_MD: Tensor) -> Tensor:
        """What enters the layer: embeddings (M, D) of tokens and features (M, D) of the places before them, joined."""
        joined_MD: Tensor = self.fc(torch.cat([embed_MD, feature_MD], dim=-1))
        return joined_MD
