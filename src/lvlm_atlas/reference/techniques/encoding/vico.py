"""ViCO (InternVL3.5-Flash): a router sends each tile through one of two connectors, to many vision tokens or to few.

Paper: cui2025vico, abstract; code: the model's own, modeling_internvl_chat.py of InternVL3.5-Flash (`Gating`,
`CrossAttentionPooling`, `extract_feature_flash`, `generate_flash`).

Symbols: downsample_ratio → 1 / factor, its square → 1 / low_factor, flash_relative_threshold → relative_threshold,
flash_absolute_threshold → absolute_threshold, mlp1 → ShuffleProjector, mlp2 → DeepProjector.

Departs:
1. Tiles are those of the model, the view of the whole first; InternVL cuts up to 12 of 448 pixels and puts it last.
2. Features come from the layer that the model uses, LLaVA's last but one; InternVL's from the last.
3. Both sides of squares are free; in the code the larger is the square of the smaller.
4. Two of the four attention modules of the router, which the code builds and never calls, are not here.
5. The weights are random unless trained ones are given: consistency training has made the LLM answer alike from either
   number of tokens, and the router say where that holds.

F frames or tiles, R rows and C columns of patches, N patches, M query tokens, D width, H heads, d head dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.grid import square_side
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.attention import attend
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.pixel_shuffle import ShuffleProjector, space_to_depth

HEADS = 16
"""Heads of the router's attention."""


def to_compress(gate_F: Tensor, relative_threshold: float, absolute_threshold: float) -> Tensor:
    """Which tiles (F,) get few tokens: those whose gate is above the quantile of all tiles and no less than a least.

    No tile at the quantile itself is compressed, so that a single one never is.

    Args:
        gate_F: probability that few tokens will do.
        relative_threshold: the quantile, from 0 to 1, interpolated linearly between tiles.
        absolute_threshold: the least.
    """
    gate_F = gate_F.float()
    return (gate_F > gate_F.quantile(relative_threshold)) & (gate_F >= absolute_threshold)


class DeepProjector(nn.Module):
    """The connector to few tokens: a norm, then three linear layers, of twice the LLM's width inside."""

    def __init__(self, encoder_width: int, llm_width: int, factor: int) -> None:
        super().__init__()
        width = encoder_width * factor**2
        self.norm = nn.LayerNorm(width)
        self.linear_1 = nn.Linear(width, 2 * llm_width)
        self.linear_2 = nn.Linear(2 * llm_width, 2 * llm_width)
        self.linear_3 = nn.Linear(2 * llm_width, llm_width)
        self.act = nn.GELU()

    def forward(self, stacked_FNd: Tensor) -> Tensor:
        """(F, N / k², k² D_v) → (F, N / k², D)."""
        inside = self.act(self.linear_2(self.act(self.linear_1(self.norm(stacked_FNd)))))
        out: Tensor = self.linear_3(inside)
        return out


class CrossAttention(nn.Module):
    """A query reads the patches of a tile; the result is normalised, and nothing of the query added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = math.gcd(HEADS, width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)

    def forward(self, query_FMD: Tensor, patch_FND: Tensor) -> Tensor:
        """(F, M, D), (F, N, D) → (F, M, D)."""
        pairs = ((self.q_proj, query_FMD), (self.k_proj, patch_FND), (self.v_proj, patch_FND))
        query, key, value = (proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for proj, x in pairs)
        out: Tensor = self.norm(self.out_proj(attend(query, key, value).transpose(1, 2).flatten(2)))
        return out


class Residual(nn.Module):
    """A block of the gate: linear, GELU, linear, norm, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        out: Tensor = x + self.norm(self.linear_2(functional.gelu(self.linear_1(x))))
        return out


class Router(nn.Module):
    """The Visual Resolution Router: four rounds of attention pool a tile into one vector, four blocks judge it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_token = nn.Parameter(torch.randn(1, width))
        self.first, self.later = CrossAttention(width), CrossAttention(width)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(4)))
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2)

    def forward(self, patch_FND: Tensor) -> Tensor:
        """Patches (F, N, D) → the probability (F,) that few tokens will do, float32."""
        read_FMD = self.first(self.query_token.expand(len(patch_FND), 1, -1), patch_FND)
        for _ in range(3):  # with the same weights
            read_FMD = self.later(read_FMD, patch_FND)
        logits_F2: Tensor = self.gate(self.norm(self.blocks(read_FMD[:, 0])))
        return logits_F2.float().softmax(-1)[:, 0]


class Connectors(nn.Module):
    """Both connectors and the router."""

    def __init__(self, encoder_width: int, llm_width: int, factor: int, low_factor: int) -> None:
        super().__init__()
        self.high = ShuffleProjector(encoder_width, llm_width, factor)
        self.low = DeepProjector(encoder_width, llm_width, low_factor)
        self.router = Router(encoder_width)


@dataclass(frozen=True)
class ViCO(Technique):
    """At `adapter`: many vision tokens of a frame or tile, or few, as the router says.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `low_factor` is no multiple of `factor`.
    """

    factor: int = 2
    low_factor: int = 4
    relative_threshold: float = 0.1
    absolute_threshold: float = 0.5

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "whole-grid")
    withholds: ClassVar = ("whole-grid", "equal-frames")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "factor", "low_factor")
        self.expect_shares("relative_threshold", "absolute_threshold")
        if self.low_factor % self.factor:
            raise Refusal(f"low_factor must be a multiple of factor, {self.factor}, got {self.low_factor}")

    def begin(self, run: Run) -> Any:
        """The connectors and the router with their weights, which all thresholds share."""
        shape = (run.config.vision.hidden_size, run.config.text.hidden_size, self.factor, self.low_factor)
        return ViCOActing(self, run, module_of(run, (ViCO, *shape), lambda: Connectors(*shape)))


@dataclass(frozen=True)
class ViCOActing:
    """The technique in a run."""

    setting: ViCO
    run: Run
    modules: Connectors

    def adapt(self, at: Adapter) -> tuple[Tensor, ...]:
        """The vision tokens of each frame or tile, (N / k², D) or (N / k_low², D).

        Raises:
            Refusal: the patches form no whole square, or one whose side a factor does not divide.
        """
        side, setting = square_side(at, self.run), self.setting
        if side % setting.low_factor:
            raise Refusal(f"low_factor must divide {side}, the patches along a side, got {setting.low_factor}")
        grid_FRCD = at.hidden_FND.unflatten(1, (side, side))
        high = self.modules.high(space_to_depth(grid_FRCD, setting.factor).flatten(1, 2))
        low = self.modules.low(space_to_depth(grid_FRCD, setting.low_factor).flatten(1, 2))
        gate_F = self.modules.router(at.hidden_FND)
        few = self.few(gate_F).tolist()
        return tuple(low[tile] if compressed else high[tile] for tile, compressed in enumerate(few))

    def few(self, gate_F: Tensor) -> Tensor:
        """Which tiles (F,) get few tokens."""
        return to_compress(gate_F, self.setting.relative_threshold, self.setting.absolute_threshold)
