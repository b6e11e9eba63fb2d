"""The head of EAGLE-3: one decoder layer on a token's embedding and a fusion of states from three depths of the target.

Paper: li2025eagle3; code: SafeAILab/EAGLE, eagle/model/cnets.py (`Model`, `LlamaDecoderLayeremb`).

B batch, N tokens, D width, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.config import TextConfig
from lvlm_atlas.reference.lvlm.decoder import Layer, RmsNorm


class FusedHead(nn.Module):
    """`fc` from three states to the width, a layer whose attention reads embedding and feature, a norm and a head.

    Args:
        config: shapes of the target's decoder.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.fc = nn.Linear(3 * width, width, bias=False)
        self.layer = Layer(config)
        for name in ("q_proj", "k_proj", "v_proj"):
            own = getattr(self.layer.self_attn, name)
            setattr(self.layer.self_attn, name, nn.Linear(2 * width, own.out_features, bias=own.bias is not None))
        self.hidden_norm = RmsNorm(width, config.rms_norm_eps)
        self.norm = RmsNorm(width, config.rms_norm_eps)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)

    def fuse(self, states: Sequence[Tensor]) -> Tensor:
        """A feature (…, D) of three states (…, D)."""
        fused: Tensor = self.fc(torch.cat([*states], dim=-1))
        return fused

    def enter(self, embed_MD: Tensor, feature_MD: Tensor) -> Tensor:
        """Embeddings and features side by side (M, 2·D), as the layer takes them."""
        return torch.cat([embed_MD, feature_MD], dim=-1)

    def project(self, x: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of what enters (B, N, 2·D), each half under a norm of its own."""
        embed_BND, feature_BND = x.chunk(2, dim=-1)
        normed = torch.cat([self.layer.input_layernorm(embed_BND), self.hidden_norm(feature_BND)], dim=-1)
        return self.layer.self_attn.project(normed, position_BN)

    def finish(self, x: Tensor, attended_BHNd: Tensor) -> Tensor:
        """The features (B, N, D) that it predicts, from what entered (B, N, 2·D); the embedding is not added."""
        return self.layer.finish(x.chunk(2, dim=-1)[1], attended_BHNd)

    def logits(self, feature_MD: Tensor) -> Tensor:
        """Logits (M, C), float32, by its own norm and head."""
        out: Tensor = self.lm_head(self.norm(feature_MD))
        return out.float()
