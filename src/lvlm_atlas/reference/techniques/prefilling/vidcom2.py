"""VidCom²: frames that stand out from their video keep more tokens, and of each frame those that stand out most.

Paper: liu2025vidcom2; code: xuyang-liu16/VidCom2, token_compressor/vidcom2/vidcom2.py.

Symbols: `base_scale`, R_RATIO → `base`, `temp` → `temperature`, `ratio` of `select_low_var_channels` → `channels`, the
Gaussian scores of video and frame → `likeness` to either centre.

Departs:
1. Scores are in float32; the code's have the type of the features. Of equal scores the earlier token stays, of equal
   variances the earlier channel counts; its `topk` leaves that open.
2. The frames of a clip must be equally long, as the code takes for granted.
3. Newline tokens, where a dialect has them, are tokens like the others; the code keeps those of LLaVA-Video too.

T frames or temporal patches, N tokens of each, C channels looked at, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.selection import top_mask, top_places
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal

WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""The Gaussians whose sum is the likeness, by their variance."""


def quiet_channels(x_TND: Tensor, channels: float) -> Tensor:
    """The ⌊D · `channels`⌋ channels that vary least over all tokens of the video, in their order: (T, N, C)."""
    variance_D = x_TND.flatten(0, 1).var(dim=0, unbiased=False)
    return x_TND[:, :, top_places(-variance_D, int(len(variance_D) * channels))]


def likeness(x_TNC: Tensor, centre: Tensor) -> Tensor:
    """How near each token lies to a centre that broadcasts against it: (T, N), from 0 to the number of Gaussians."""
    square_TN = (x_TNC - centre).square().sum(dim=-1)
    near_TN: Tensor = torch.stack([(-square_TN / (2 * width)).exp() for width in WIDTHS]).sum(dim=0)
    return near_TN


def budgets(score_T: Tensor, base: float, temperature: float, tokens: int) -> Tensor:
    """Tokens (T,) that each frame keeps, from 1 to `tokens`.

    A frame's share is base · (1 + p − mean p), at most 1, p being the softmax of the scores over the frames.

    Args:
        score_T: the greater, the more a frame stands out.
        base: mean share, before it is cut off and rounded (halves to even).
        temperature: of the softmax.
        tokens: tokens of a frame.
    """
    p_T = ((score_T - score_T.max()) / temperature).softmax(dim=0)
    share_T = (base * (1 + p_T - p_T.mean())).clamp(max=1)
    return (share_T * tokens).round().long().clamp(min=1)


def vidcom2(x_TND: Tensor, base: float = 0.25, temperature: float = 0.01, channels: float = 0.5) -> Tensor:
    """True (T, N) at the tokens to keep.

    Args:
        x_TND: the tokens of a video.
        base: see `budgets`.
        temperature: see `budgets`.
        channels: share of the channels that scores look at.
    """
    x_TNC = unit(quiet_channels(x_TND.float(), channels))
    of_video_TN = likeness(x_TNC, x_TNC.mean(dim=(0, 1)))
    of_frame_TN = likeness(x_TNC, x_TNC.mean(dim=1, keepdim=True))
    keep_T = budgets(-of_video_TN.mean(dim=1), base, temperature, x_TND.shape[1])
    return top_mask(-(of_video_TN + of_frame_TN), keep_T)


@dataclass(frozen=True)
class VidCom2(Technique):
    """At `adapter-output`: leaves each frame as many tokens as it stands out for, with their places in the grid.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    base: float = 0.25
    temperature: float = 0.01
    channels: float = 0.5

    acts_at: ClassVar = ("adapter-output",)
    needs: ClassVar = ("visual-features", "equal-frames", "frames-apart")
    withholds: ClassVar = ("equal-frames", "whole-grid")

    def __post_init__(self) -> None:
        for name in ("base", "channels"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The kept tokens of each frame.

        Raises:
            Refusal: frames have different numbers of tokens, or so few channels are wanted that none is left.
        """
        tokens = at.tokens
        if len({*tokens.lengths}) > 1:
            raise Refusal(f"VidCom2 compares frames of equally many tokens, got {[*tokens.lengths]}; leave one out")
        x_TND = torch.stack([block.token_ND for block in tokens.blocks])
        if not int(x_TND.shape[2] * self.channels):
            raise Refusal(f"channels must leave one of the {x_TND.shape[2]} at least, got a share of {self.channels}")
        if not x_TND.shape[1]:
            return tokens
        kept_TN = vidcom2(x_TND, self.base, self.temperature, self.channels)
        return tokens.keep(kept_TN.nonzero()[:, 1].split(kept_TN.sum(dim=1).tolist()))
