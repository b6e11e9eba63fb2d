"""Honeybee's D-Abstractor: queries that start on a grid over the image sample it where they choose to look.

Paper: cha2024honeybee; code: kakaobrain/honeybee, honeybee/projectors/dabs.py (`DAbstractor`), on the decoder
of Deformable DETR in transformers (`DeformableDetrDecoderLayer`), configs/model_config/d-abs.yaml.

Symbols: num_queries → queries, decoder_layers → layers, d_model → width, decoder_attention_heads → heads,
decoder_n_points → points, decoder_ffn_dim → inner.

Departs:
1. Features come from the layer that the model uses, LLaVA's last but one; the authors take CLIP's last.
2. Options that the authors' configuration leaves off are not here: features of several layers, end tokens, pooled
   features in the place of the learned targets.
3. The weights are random unless trained ones are given, reference points apart, which are those that training starts
   from.

F frames, S patches, C channels, M queries, D width, H heads, d head dimension, P points.
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


def even_points(side: int, grid: int) -> Tensor:
    """Column and row (side², 2) of a square of points over a grid, row by row, as shares of its width and height.

    The outer ones are the centres of the grid's outer cells; a single one is that of its first cell.
    """
    at_s = torch.linspace(0.5, grid - 0.5, side) / grid
    row_ss, column_ss = torch.meshgrid(at_s, at_s, indexing="ij")
    return torch.stack([column_ss, row_ss], dim=-1).flatten(0, 1)


def sample(value_FHdss: Tensor, point_FHMP2: Tensor, weight_FHMP: Tensor) -> Tensor:
    """Weighted sums (F, H, M, d) of a grid's values at points between its cells, bilinear; 0 outside.

    Args:
        value_FHdss: values of each head on the grid.
        point_FHMP2: column and row of each point, as shares of the grid's width and height.
        weight_FHMP: weight of each point.
    """
    at_GMP2 = 2 * point_FHMP2.flatten(0, 1) - 1
    found_GdMP = functional.grid_sample(value_FHdss.flatten(0, 1), at_GMP2, align_corners=False)
    summed_GdM = (found_GdMP * weight_FHMP.flatten(0, 1)[:, None]).sum(-1)
    return summed_GdM.mT.reshape(*weight_FHMP.shape[:3], -1)


class Deformable(nn.Module):
    """Attention to a few points a head, whose offsets and weights follow from the query alone."""

    def __init__(self, width: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.offsets = nn.Linear(width, heads * points * 2)
        self.weights = nn.Linear(width, heads * points)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, query_FMD: Tensor, patch_FSD: Tensor, reference_M2: Tensor) -> Tensor:
        """(F, M, D), a whole square (F, S, D), where the queries stand (M, 2) → (F, M, D); offsets count cells."""
        side = math.isqrt(patch_FSD.shape[1])
        value_FHdss = self.value(patch_FSD).mT.unflatten(1, (self.heads, -1)).unflatten(3, (side, side))
        offset_FHMP2 = self.offsets(query_FMD).unflatten(2, (self.heads, self.points, 2)).transpose(1, 2)
        weight_FHMP = self.weights(query_FMD).unflatten(2, (self.heads, self.points)).transpose(1, 2).softmax(-1)
        read_FHMd = sample(value_FHdss, reference_M2[:, None] + offset_FHMP2 / side, weight_FHMP)
        out_FMD: Tensor = self.out(read_FHMd.transpose(1, 2).flatten(2))
        return out_FMD


class DeformableLayer(nn.Module):
    """Attention among the queries, to points of the image, an MLP with ReLU; a norm follows each sum."""

    def __init__(self, width: int, heads: int, points: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.self_norm = nn.LayerNorm(width)
        self.deformable = Deformable(width, heads, points)
        self.cross_norm = nn.LayerNorm(width)
        self.linear_1, self.linear_2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.mlp_norm = nn.LayerNorm(width)

    def forward(self, x_FMD: Tensor, place_FMD: Tensor, patch_FSD: Tensor, reference_M2: Tensor) -> Tensor:
        """(F, M, D), what is added to it wherever it asks (F, M, D), patches, points → (F, M, D)."""
        asking_FMD = x_FMD + place_FMD
        heads = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.query(asking_FMD), self.key(asking_FMD), self.value(x_FMD))
        )
        x_FMD = self.self_norm(x_FMD + self.out(attend(*heads).transpose(1, 2).flatten(2)))
        x_FMD = self.cross_norm(x_FMD + self.deformable(x_FMD + place_FMD, patch_FSD, reference_M2))
        out_FMD: Tensor = self.mlp_norm(x_FMD + self.linear_2(functional.relu(self.linear_1(x_FMD))))
        return out_FMD


class DAbstractor(nn.Module):
    """The projector, from a whole square of S patches to M tokens of the LLM."""

    reference_M2: Tensor

    def __init__(self, patches: int, channels: int, out: int, setting: HoneybeeDAbstractor) -> None:
        super().__init__()
        width, self.side = setting.width, math.isqrt(setting.queries)
        self.widen = nn.Identity() if channels == width else nn.Linear(channels, width)
        self.position_embed = nn.Parameter(torch.zeros(1, patches, width))
        self.target_tokens = nn.Parameter(torch.zeros(setting.queries, width))
        self.register_buffer("reference_M2", even_points(self.side, math.isqrt(patches)))
        self.layers = nn.ModuleList(
            DeformableLayer(width, setting.heads, setting.points, setting.inner) for _ in range(setting.layers)
        )
        self.narrow = nn.Identity() if out == width else nn.Linear(width, out)

    def forward(self, patch_FSC: Tensor) -> Tensor:
        """(F, S, C) → (F, M, D)."""
        patch_FSD = self.widen(patch_FSC) + self.position_embed
        side = math.isqrt(patch_FSD.shape[1])
        pooled = functional.adaptive_avg_pool2d(patch_FSD.mT.unflatten(2, (side, side)), self.side)
        place_FMD, x_FMD = pooled.flatten(2).mT, self.target_tokens.expand(len(patch_FSD), -1, -1)
        for layer in self.layers:
            x_FMD = layer(x_FMD, place_FMD, patch_FSD, self.reference_M2)
        out: Tensor = self.narrow(x_FMD)
        return out


@dataclass(frozen=True)
class HoneybeeDAbstractor(Technique):
    """At `adapter`: `queries` vision tokens of each frame, computed in float32 whatever the model's type is.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `queries` is no square number, or `width` no multiple of `heads`.
    """

    queries: int = 144
    layers: int = 6
    width: int = 1024
    heads: int = 8
    points: int = 4
    inner: int = 1024

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "queries", "layers", "width", "heads", "points", "inner")
        if math.isqrt(self.queries) ** 2 != self.queries:
            raise Refusal(f"queries must be a square number, got {self.queries}")
        if self.width % self.heads:
            raise Refusal(f"width must be a multiple of the {self.heads} heads, got {self.width}")

    def begin(self, run: Run) -> Any:
        """The adapter with its weights."""
        return _Acting(self, run)


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: HoneybeeDAbstractor
    run: Run

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F, M, D).

        Raises:
            Refusal: the patches form no whole square.
        """
        patches, setting, config = square_side(at, self.run) ** 2, self.setting, self.run.config
        widths = at.hidden_FND.shape[2], config.text.hidden_size
        abstractor = module_of(
            self.run, (setting, patches), lambda: DAbstractor(patches, *widths, setting), dtype=torch.float32
        )
        out_FMD: Tensor = abstractor(at.hidden_FND.float())
        return out_FMD.to(at.hidden_FND.dtype)
