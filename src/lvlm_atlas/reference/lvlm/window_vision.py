"""Qwen2.5-VL's vision tower and merger, parameter names as in published checkpoints.

T temporal patches, N patches of one, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.config import WindowLVLMConfig, WindowVisionConfig
from lvlm_atlas.reference.lvlm.decoder import Mlp, RmsNorm
from lvlm_atlas.reference.lvlm.native_vision import Block, NativeTower
from lvlm_atlas.reference.lvlm.windows import Windows, whole, windows_of


class WindowTower(NativeTower):
    """Attention inside windows, save in some layers; gated MLPs."""

    config: WindowVisionConfig

    def __init__(self, config: WindowVisionConfig) -> None:
        width, inner, act = config.hidden_size, config.intermediate_size, config.hidden_act
        blocks = (Block(config, RmsNorm, Mlp(width, inner, act, bias=True)) for _ in range(config.num_hidden_layers))
        super().__init__(config, blocks, embed_bias=False)

    def windows(self, place_N2: Tensor) -> list[Windows]:
        """See `NativeTower`."""
        near, all_ = windows_of(place_N2, self.config), whole(place_N2)
        full = self.config.full_attention_layers
        return [all_ if layer in full else near for layer in range(len(self.blocks))]


class PatchMerger(nn.Module):
    """The adapter: a norm, then two linear layers over each square of patches side by side."""

    def __init__(self, config: WindowLVLMConfig) -> None:
        super().__init__()
        vision = config.vision
        self.patches = vision.spatial_merge_size**2
        width = vision.hidden_size * self.patches
        self.ln_q = RmsNorm(vision.hidden_size, vision.norm_eps)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.text.hidden_size))

    def forward(self, hidden_TND: Tensor) -> Tensor:
        """(T, N, D_v) → (T, N / 4, D)."""
        out: Tensor = self.mlp(self.ln_q(hidden_TND).unflatten(1, (-1, self.patches)).flatten(2))
        return out
