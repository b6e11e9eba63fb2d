"""Dynamic-VLM: the more frames a video has, the fewer tokens each of them gets, by pooling in front of the projector.

Paper: wang2025dynamicvlm (abstract); code: Hon-Wong/ByteVideoLLM, models/adapter/dynamic_spatial_pooling.py
(`DynamicSpatialPooling`), models/adapter/projector.py, configs/sample_config.yaml.

Symbols: t_out → `out_token_num`, N_max → `max_video_tokens`, F → frames; tokens of a frame t → `frame_tokens`.

Departs:
1. Inference only. In training the code draws the tokens of a frame anew for each video, from `min_out_token_num` to
   t_out, under the same cap, which is what lets one projector serve all of them.
2. All that the encoder reads of a request counts as one video; where images are tiled, each view is a frame of it. The
   code is told how many frames each video has.
3. A frame never gets more tokens than it has patches; the code would spread them over a finer grid.
4. The projector is the model's own: two linear layers with GELU in between, in the code as in LLaVA. Unless it was
   trained on many sizes of grid, it only stands for one that was.

F frames, N patches of a frame in H rows and W columns, h and w of the pooled grid, C width of the encoder, D width of
the LLM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.grid import square_side


def frame_tokens(frames: int, patches: int, out_token_num: int, max_video_tokens: int) -> int:
    """Tokens of a frame: its part of the cap, t_out or all patches at most, rounded down to a square, and one at least.

    Beyond `max_video_tokens` frames the cap is exceeded, since each of them keeps one.
    """
    return max(1, math.isqrt(min(max_video_tokens // frames, out_token_num, patches))) ** 2


def pool_to(patch_FNC: Tensor, tokens: int) -> Tensor:
    """Average a square of patches, row after row, over windows of a square of `tokens`: (F, N, C) → (F, h w, C)."""
    if tokens == patch_FNC.shape[1]:
        return patch_FNC
    square_FCHW = patch_FNC.mT.unflatten(2, (math.isqrt(patch_FNC.shape[1]), -1))
    pooled_FChw: Tensor = functional.adaptive_avg_pool2d(square_FCHW, math.isqrt(tokens))
    return pooled_FChw.flatten(2).mT


@dataclass(frozen=True)
class DynamicVlm(Technique):
    """At `adapter`: frames share a number of vision tokens.

    Raises:
        ValueError: a parameter is below 1.
    """

    out_token_num: int = 576
    """Most tokens of a frame."""
    max_video_tokens: int = 3200
    """Most tokens of all frames together, as long as there are not more frames."""

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "out_token_num", "max_video_tokens")

    def begin(self, run: Run) -> Any:
        """What acts in a run."""
        return _Acting(self, run)


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: DynamicVlm
    run: Run

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F, h w, D).

        Raises:
            Refusal: the patches form no whole square.
        """
        patches = square_side(at, self.run) ** 2
        tokens = frame_tokens(len(at.hidden_FND), patches, self.setting.out_token_num, self.setting.max_video_tokens)
        return at.adapter(pool_to(at.hidden_FND, tokens))
