"""NVILA's compression: squares of patches are laid side by side, with zeros where a side does not come out even, and
frames are averaged over time behind the adapter.

Paper: liu2025nvila; code: NVlabs/VILA, llava/model/multimodal_projector/base_projector.py (`flat_square_2x2`,
`flat_square_3x3`, `MultimodalProjector`) and llava/model/encoders/video/tsp.py (`pool`).

Symbols: downsample_rate → `factor`; the first of a pool size → `temporal_pool`.

Departs:
1. Tiles of a large image are those of the model. The released model also reads an image at several scales, which makes
   patches wider and not more, and starts a row of its own choice of tiles.
2. The weights of the adapter are random unless trained ones are given, and no end token is put behind a frame.
3. Frames that are left over by the average are refused, as the code fails on them.

F frames, R rows and C columns of patches, k factor, p frames averaged, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.grid import square_side
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.pixel_shuffle import space_to_depth

FACTORS = (2, 3)
"""Sides of a square that the released models have."""


def folded(grid_FRCD: Tensor, factor: int) -> Tensor:
    """Squares of patches side by side, (F, ⌈R / k⌉, ⌈C / k⌉, k² D), zeros behind the last row and column."""
    rows, columns = grid_FRCD.shape[1:3]
    filled = functional.pad(grid_FRCD, (0, 0, 0, -columns % factor, 0, -rows % factor))
    return space_to_depth(filled, factor)


def averaged(tokens_FND: Tensor, frames: int) -> Tensor:
    """The mean of every `frames` neighbours in time, (T, N, D) with T = F / p; `frames` divides F."""
    mean_TND: Tensor = tokens_FND.unflatten(0, (-1, frames)).mean(1)
    return mean_TND


class NvilaProjector(nn.Sequential):
    """From k² stacked patches (…, k² D_v) to tokens of the LLM (…, D); with squares of three, in two steps."""

    def __init__(self, encoder_width: int, llm_width: int, factor: int) -> None:
        stacked, middle = encoder_width * factor**2, encoder_width * 3
        narrow: list[nn.Module] = (
            [] if factor == FACTORS[0] else [nn.Linear(stacked, middle), nn.GELU(), nn.LayerNorm(middle)]
        )
        width = middle if narrow else stacked
        super().__init__(
            nn.LayerNorm(stacked), *narrow, nn.Linear(width, llm_width), nn.GELU(), nn.Linear(llm_width, llm_width)
        )


@dataclass(frozen=True)
class Nvila(Technique):
    """At `adapter`: a vision token for each square of `factor`² patches, averaged over `temporal_pool` frames.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    factor: int = 2
    temporal_pool: int = 1

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "whole-grid")
    withholds: ClassVar = ("frames-apart",)

    def __post_init__(self) -> None:
        if self.factor not in FACTORS:
            raise ValueError(f"factor must be 2 or 3, got {self.factor}")
        self.expect_at_least(1, "temporal_pool")

    def begin(self, run: Run) -> Any:
        """The adapter with its weights."""
        widths = run.config.vision.hidden_size, run.config.text.hidden_size
        return _Acting(self, run, module_of(run, (Nvila, self.factor), lambda: NvilaProjector(*widths, self.factor)))


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: Nvila
    run: Run
    projector: NvilaProjector

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F / p, ⌈√N / k⌉², D).

        Raises:
            Refusal: the patches form no square, or `temporal_pool` does not divide the frames, or is meant for tiles.
        """
        side, pool = square_side(at, self.run), self.setting.temporal_pool
        frames = len(at.hidden_FND)
        if frames % pool or (at.views and pool > 1):
            what = "tiles of an image are no frames" if at.views else f"it does not divide {frames} frames"
            raise Refusal(f"temporal_pool {pool} averages frames of a video, and {what}; give 1")
        grid_FRCD = at.hidden_FND.reshape(frames, side, side, -1)
        tokens = self.projector(folded(grid_FRCD, self.setting.factor).flatten(1, 2))
        return averaged(tokens, pool) if pool > 1 else tokens
