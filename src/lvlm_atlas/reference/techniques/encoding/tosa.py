"""ToSA: token merging by likeness of keys and by nearness in space, which a depth map gives.

Paper: huang2025tosa; code: hsiangwei0903/ToSA, llava/model/multimodal_encoder/siglip_encoder_3D_tome.py and
ToSA/demo.py.

Symbols: r → r (there int(H W / p² · (1 − kept share) / layers)), α_l → `semantic_share`, semantic metric → the keys
averaged over heads, spatial token → spatial_FNe, depth index z → `depth_bins`.

Departs:
1. Depth is a stand-in: the paper takes that of a sensor or of a depth network, this reads it off the features of the
   first layer by a linear head, with random weights unless trained ones are given, and spreads it over 0 to 255 in each
   frame.
2. CLIP's class token is never merged; the code's encoder, SigLIP, has none.
3. Rows and columns are encoded as their indices in the model's own grid, 27 · 27 patches in the code.
4. `size_bias` puts the log of the sizes along the keys, as in ToMe. The code puts it along the queries, where it
   cancels in the softmax, so that its results are those of False.
5. Equal scores are ordered by place; the code leaves them to the backend's sort. Spatial tokens are float32, there
   half precision.
6. The schedule of α spans the layers that run, and a single layer is the first of it.

F frames, N tokens, E even and O odd ones, d head dimension, D width, e = 72 channels of a spatial token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.modules.merged import merged
from lvlm_atlas.reference.ops.merging import even_odd_cosine, match_pairs, merge_wavg
from lvlm_atlas.reference.refusal import Refusal

Style = Literal["increase", "uniform", "decrease"]
"""How much keys decide from the first to the last layer."""

CHANNELS = 24
"""Channels that each of row, column and depth is encoded in."""


def semantic_share(style: Style, layer: int, layers: int) -> float:
    """α, what keys decide in a layer; the rest is space's. From 0 to 1, from 1 to 0, or a half throughout."""
    if style == "uniform":
        return 0.5
    risen = layer / max(1, layers - 1)
    return risen if style == "increase" else 1 - risen


def depth_bins(depth_FN: Tensor, bins: int = 27) -> Tensor:
    """Index (F, N), from 0 to `bins` − 1, of the mean depth of each patch, from 0 to 255; halves go to the even one."""
    return (depth_FN / (256 / bins)).round().clamp(0, bins - 1).long()


def sinusoids(index: Tensor) -> Tensor:
    """Encode whole numbers (…) in `CHANNELS` channels (…, 24): sine and cosine in turns, ever slower."""
    rate = 10000.0 ** (-torch.arange(0, CHANNELS, 2, device=index.device) / CHANNELS)
    angle = index[..., None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def spatial_tokens(place_FN2: Tensor, bin_FN: Tensor) -> Tensor:
    """Row, column and depth of each patch, encoded side by side: (F, N, 72); zero where a token is no patch.

    Args:
        place_FN2: row and column, −1 of what is no patch.
        bin_FN: index of its depth.
    """
    spatial_FNe = sinusoids(torch.cat([place_FN2, bin_FN[..., None]], dim=-1)).flatten(2)
    return spatial_FNe.masked_fill(place_FN2[..., :1] < 0, 0)


def likeness(metric_FNd: Tensor, spatial_FNe: Tensor, alpha: float) -> Tensor:
    """Scores (F, E, O) of merging each even token into each odd one: α of the keys' cosine, 1 − α of that in space."""
    return alpha * even_odd_cosine(metric_FNd.float()) + (1 - alpha) * even_odd_cosine(spatial_FNe)


class DepthHead(nn.Module):
    """A stand-in for a depth map: one number of the features of each patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def forward(self, hidden_FND: Tensor) -> Tensor:
        """Depth (F, N) from 0, the nearest of the frame, to 255; 0 where all are alike."""
        raw_FN = self.linear(hidden_FND)[..., 0].float()
        near_F1, far_F1 = raw_FN.amin(dim=1, keepdim=True), raw_FN.amax(dim=1, keepdim=True)
        depth_FN: Tensor = 255 * (raw_FN - near_F1) / (far_F1 - near_F1).clamp(min=torch.finfo(torch.float32).tiny)
        return depth_FN


@dataclass(frozen=True)
class ToSA(Technique):
    """At `encoder-layer`: merges tokens between attention and MLP.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    r: int = 25
    style: Style = "increase"
    bins: int = 27
    size_bias: bool = False

    acts_at: ClassVar = ("encoder-layer",)
    needs: ClassVar = ("encoder-keys", "depth-map", "attention-bias", "free-patches", "whole-grid")
    withholds: ClassVar = ("whole-grid",)

    def __post_init__(self) -> None:
        self.expect_at_least(0, "r")
        self.expect_at_least(1, "bins")
        if self.style not in ("increase", "uniform", "decrease"):
            raise ValueError(f"style must be increase, uniform or decrease, got {self.style!r}")

    def begin(self, run: Run) -> Merging:
        """What acts in a run, with the model's depth head."""
        width = run.config.vision.hidden_size
        return Merging(self, module_of(run, DepthHead, lambda: DepthHead(width)))


@dataclass
class Merging:
    """ToSA, the model's depth head, and the spatial tokens of the frames that are encoded now."""

    setting: ToSA
    head: DepthHead
    spatial_FNe: Tensor | None = None

    def encoder_layer(self, at: EncoderLayer) -> Patches:
        """The patches, r less.

        Raises:
            Refusal: patches come without keys or places, or an earlier technique has merged them.
        """
        setting, patches = self.setting, at.patches
        if not setting.r:
            return patches
        if at.layer == 0:
            self.spatial_FNe = self._placed(patches)
        if self.spatial_FNe is None or self.spatial_FNe.shape[1] != patches.hidden_FND.shape[1]:
            raise Refusal("ToSA follows each patch through the layers, and another technique has merged some; drop one")
        if patches.key_FHNd is None:
            raise Refusal("ToSA matches patches by their keys, which these come without")
        alpha = semantic_share(setting.style, at.layer, at.layers)
        score_FEO = likeness(patches.key_FHNd.mean(dim=1), self.spatial_FNe, alpha)
        matching = match_pairs(score_FEO, setting.r, patches.prefix)
        size_FN = None if patches.size_FN is None else patches.size_FN.float()
        self.spatial_FNe, _ = merge_wavg(matching, self.spatial_FNe, size_FN)
        return merged(patches, matching, proportional=setting.size_bias)

    def _placed(self, patches: Patches) -> Tensor:
        """The spatial tokens of patches that are still whole."""
        if patches.place_FN2 is None:
            raise Refusal("ToSA needs to know where each patch stands; leave out what merges them before")
        depth_FP = self.head(patches.hidden_FND[:, patches.prefix :])
        bin_FN = nn.functional.pad(depth_bins(depth_FP, self.setting.bins), (patches.prefix, 0))
        return spatial_tokens(patches.place_FN2, bin_FN)
