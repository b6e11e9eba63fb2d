"""Qwen3-VL's vision tower and mergers, parameter names as in published checkpoints.

T temporal patches, N patches of one, L DeepStack layers, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.activation import ACTIVATIONS
from lvlm_atlas.reference.lvlm.config import DeepStackLVLMConfig
from lvlm_atlas.reference.lvlm.native_vision import Block, NativeTower


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, inner: int, out: int, act: str) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(width, inner)
        self.linear_fc2 = nn.Linear(inner, out)
        self.act = ACTIVATIONS[act]

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, out)."""
        out: Tensor = self.linear_fc2(self.act(self.linear_fc1(x)))
        return out


class PatchMerger(Mlp):
    """A norm, then an MLP over each square of patches side by side.

    Args:
        config: the model.
        norm_square: whether the norm is taken over the square, as DeepStack's mergers do; else over each patch, as
            the adapter does.
    """

    def __init__(self, config: DeepStackLVLMConfig, *, norm_square: bool = False) -> None:
        vision = config.vision
        width = vision.hidden_size * config.patches_a_token
        super().__init__(width, width, config.text.hidden_size, "gelu")
        self.norm_square = norm_square
        self.norm = nn.LayerNorm(width if norm_square else vision.hidden_size, vision.norm_eps)

    def forward(self, hidden_TND: Tensor) -> Tensor:
        """(T, N, D_v) → (T, N / 4, D)."""
        if not self.norm_square:
            hidden_TND = self.norm(hidden_TND)
        square_TNd = hidden_TND.reshape(len(hidden_TND), -1, self.linear_fc1.in_features)
        return super().forward(self.norm(square_TNd) if self.norm_square else square_TNd)


class DeepStackTower(NativeTower):
    """Learned positions besides rotary ones, full attention; the output of some layers is merged for the LLM."""

    def __init__(self, config: DeepStackLVLMConfig) -> None:
        vision = config.vision
        width, inner = vision.hidden_size, vision.intermediate_size
        blocks = (
            Block(vision, nn.LayerNorm, Mlp(width, inner, width, vision.hidden_act))
            for _ in range(vision.num_hidden_layers)
        )
        super().__init__(vision, blocks, embed_bias=True)
        self.layers, self.side = vision.deepstack_layers, vision.position_side
        self.pos_embed = nn.Embedding(vision.num_position_embeddings, width)
        self.deepstack_merger_list = nn.ModuleList(PatchMerger(config, norm_square=True) for _ in self.layers)

    def positioned(self, hidden_TND: Tensor, place_N2: Tensor) -> Tensor:
        """See `NativeTower`: learned positions, the corners of their square on those of the grid."""
        index_N4, share_N4 = corners(place_N2, self.side)
        position_ND: Tensor = (self.pos_embed(index_N4).float() * share_N4[..., None]).sum(1)
        return hidden_TND + position_ND.to(hidden_TND.dtype)

    def after(self, layer: int, patches: Patches) -> Patches:
        """See `NativeTower`: the features of a DeepStack layer are put behind those of earlier ones."""
        if layer not in self.layers:
            return patches
        merged_TN1D = self.deepstack_merger_list[self.layers.index(layer)](patches.hidden_FND)[:, :, None]
        earlier = () if patches.deepstack_FNLD is None else (patches.deepstack_FNLD,)
        return replace(patches, deepstack_FNLD=torch.cat([*earlier, merged_TN1D], dim=2))


def corners(place_N2: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Bilinear interpolation from a square of `side`² places to a grid, corners on corners.

    Args:
        place_N2: row and column of each patch; all patches of the grid are there.
        side: places along a side of the square.

    Returns the four places around each patch (N, 4), as row · side + column, and the share (N, 4) of each, float32.
    """
    last_2 = place_N2.amax(0).clamp(min=1)
    at_N2 = place_N2.float() * (side - 1) / last_2
    low_N2 = at_N2.floor().long().clamp(max=side - 1)
    high_N2, rest_N2 = (low_N2 + 1).clamp(max=side - 1), at_N2 - low_N2
    row_N2, column_N2 = (torch.stack([low_N2[:, axis], high_N2[:, axis]], dim=1) for axis in (0, 1))
    row_share_N2, column_share_N2 = (torch.stack([1 - rest_N2[:, axis], rest_N2[:, axis]], dim=1) for axis in (0, 1))
    index_N22 = row_N2[:, :, None] * side + column_N2[:, None]
    return index_N22.flatten(1), (row_share_N2[:, :, None] * column_share_N2[:, None]).flatten(1)
