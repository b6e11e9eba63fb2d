"""Pixel shuffle (InternVL): each square of k × k patches becomes one token of k² times the width, then an MLP.

Paper: chen2024internvl, sec. 3.1; code: OpenGVLab/InternVL, internvl_chat/internvl/model/internvl_chat/
modeling_internvl_chat.py (`pixel_shuffle`, `extract_feature`, `mlp1`).

Symbols: downsample_ratio s → 1 / factor, ps_version → version, mlp1 → ShuffleProjector.

Departs:
1. Tiles of a large image are those of the model, not InternVL's own choice among 1 to 12 tiles of 448 pixels.
2. The encoder is that of the model, so that features come from the layer that it uses, not from InternViT's last.
3. The weights of the MLP are random unless trained ones are given.

F frames, R rows and C columns of patches, k factor, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.grid import square_side
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.refusal import Refusal

Version = Literal["v1", "v2"]
"""The grid that comes out: with rows and columns exchanged, or as it went in."""


def space_to_depth(grid_FRCD: Tensor, factor: int, version: Version = "v2") -> Tensor:
    """Stack squares of patches along the width: (F, R, C, D) → (F, R / k, C / k, k² D); v1: (F, C / k, R / k, k² D).

    A token holds its square row by row, each patch with all its features.

    Args:
        grid_FRCD: patches.
        factor: side k of a square; it divides R and C.
        version: `v1` leaves rows and columns of the result exchanged, `v2` exchanges them back.
    """
    frames, rows, columns, width = grid_FRCD.shape
    square_FrkckD = grid_FRCD.reshape(frames, rows // factor, factor, columns // factor, factor, width)
    stacked_Frcw = square_FrkckD.transpose(2, 3).flatten(3)
    return stacked_Frcw if version == "v2" else stacked_Frcw.transpose(1, 2)


class ShuffleProjector(nn.Module):
    """A norm, then two linear layers: from k² stacked patches to a token of the LLM."""

    def __init__(self, encoder_width: int, llm_width: int, factor: int) -> None:
        super().__init__()
        width = encoder_width * factor**2
        self.norm = nn.LayerNorm(width)
        self.linear_1 = nn.Linear(width, llm_width)
        self.linear_2 = nn.Linear(llm_width, llm_width)
        self.act = nn.GELU()

    def forward(self, stacked_FNd: Tensor) -> Tensor:
        """(F, N / k², k² D_v) → (F, N / k², D)."""
        out: Tensor = self.linear_2(self.act(self.linear_1(self.norm(stacked_FNd))))
        return out


@dataclass(frozen=True)
class PixelShuffle(Technique):
    """At `adapter`: a vision token for each square of `factor`² patches.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    factor: int = 2
    version: Version = "v2"

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "factor")
        if self.version not in ("v1", "v2"):
            raise ValueError(f"version must be v1 or v2, got {self.version!r}")

    def begin(self, run: Run) -> Any:
        """The adapter in this run."""
        return _Acting(self, run)


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: PixelShuffle
    run: Run

    @property
    def projector(self) -> ShuffleProjector:
        """The adapter with its weights, which both versions share; made only once the factor is known to fit."""
        setting, config = self.setting, self.run.config
        widths = config.vision.hidden_size, config.text.hidden_size
        return module_of(
            self.run, (PixelShuffle, setting.factor), lambda: ShuffleProjector(*widths, factor=setting.factor)
        )

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F, N / k², D).

        Raises:
            Refusal: the patches form no whole square, or one whose side `factor` does not divide.
        """
        side, factor = square_side(at, self.run), self.setting.factor
        if side % factor:
            raise Refusal(f"factor must divide {side}, the patches along a side, got {factor}")
        grid_FRCD = at.hidden_FND.reshape(len(at.hidden_FND), side, side, -1)
        out: Tensor = self.projector(space_to_depth(grid_FRCD, factor, self.setting.version).flatten(1, 2))
        return out
