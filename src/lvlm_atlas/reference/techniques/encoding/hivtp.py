"""HIVTP: what the middle encoder layers attend to, the best of each region and the best of each small window.

Paper: xu2025hivtp; code: Blacktower27/HIVTP, goprune/clip_encoder.py and goprune/main.py.

Symbols: k → share (there in per cent), r and c → regions, m → first_layer (counted from 0), q → layers.

Departs:
1. `regions`, `first_layer`, `layers` and `share` are what the run is given; the code takes the last two of its five
   arguments only, and always cuts 24 · 24 patches in 2 · 2 regions that keep 25 %.
2. Regions whose sides are odd end with windows that are cut off; the code has no such regions.
3. Every frame or tile chooses for itself, so that they differ in length; the code takes one image at a time and fails
   on tiles.
4. Of equal scores the earlier patch is kept; the code's `topk` leaves that open. Attention is a float32 softmax; the
   code's has the type of the weights.

F frames, N patches without the class token, R regions of h · w = n patches, which a · b windows of
2 · 2 cover, u · v patches with what fills them up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, EncoderLayer, EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.received import received_attention
from lvlm_atlas.reference.modules.uneven import filled, without_filling
from lvlm_atlas.reference.ops.selection import top_mask
from lvlm_atlas.reference.refusal import Refusal


def important(score_FRhw: Tensor, share: float) -> Tensor:
    """True (F, R, h, w) at the ⌊n · share⌋ best patches of each region."""
    score_FRn = score_FRhw.flatten(2)
    return top_mask(score_FRn, int(score_FRn.shape[2] * share)).reshape(score_FRhw.shape)


def best_of_windows(score_FRhw: Tensor, taken_FRhw: Tensor) -> Tensor:
    """True (F, R, h, w) at the best patch not taken yet of each window of 2 · 2; none where all are taken."""
    rows, columns = score_FRhw.shape[2:]
    rest_FRhw = score_FRhw.masked_fill(taken_FRhw, float("-inf"))
    whole_FRuv = functional.pad(rest_FRhw, (0, columns % 2, 0, rows % 2), value=float("-inf"))
    cell_FRab4 = whole_FRuv.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).transpose(3, 4).flatten(4)
    best_FRab4 = top_mask(cell_FRab4, 1) & cell_FRab4.isfinite()
    best_FRuv = best_FRab4.unflatten(4, (2, 2)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    best_FRhw: Tensor = best_FRuv[:, :, :rows, :columns]
    return best_FRhw


def hivtp(score_FN: Tensor, share: float = 0.25, regions: int = 2) -> Tensor:
    """True (F, N) at the patches that stay, of each frame other ones and as many as its windows ask for.

    Args:
        score_FN: attention that each patch of a square receives in the middle layers.
        share: of the patches of a region, those that are kept as important.
        regions: along each side; it divides the square's.
    """
    side = math.isqrt(score_FN.shape[1])
    score_FRhw = score_FN.reshape(-1, regions, side // regions, regions, side // regions).transpose(2, 3).flatten(1, 2)
    taken_FRhw = important(score_FRhw, share)
    kept_FRhw = taken_FRhw | best_of_windows(score_FRhw, taken_FRhw)
    kept_FN: Tensor = kept_FRhw.unflatten(1, (regions, regions)).transpose(2, 3).reshape(score_FN.shape)
    return kept_FN


@dataclass(frozen=True)
class HIVTP(Technique):
    """At `encoder-layer` it adds up attention, at `encoder-output` it drops patches; behind the adapter frames differ.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    share: float = 0.25
    regions: int = 2
    first_layer: int = 6
    layers: int = 3

    acts_at: ClassVar = ("encoder-layer", "encoder-output", "adapter-output")
    needs: ClassVar = ("encoder-attention", "free-patches", "whole-grid")
    withholds: ClassVar = ("cls-token", "whole-grid", "equal-frames")

    def __post_init__(self) -> None:
        self.expect_shares("share")
        self.expect_at_least(1, "regions", "layers")
        self.expect_at_least(0, "first_layer")

    def begin(self, run: Run) -> Choosing:  # noqa: ARG002 - it needs to know nothing of the run
        """What acts in a run."""
        return Choosing(self)


@dataclass
class Choosing:
    """HIVTP, the scores of the frames that are encoded now, and how many patches each of them kept."""

    setting: HIVTP
    score_FN: Tensor | None = None
    lengths: list[int] = field(default_factory=list)

    def encoder_layer(self, at: EncoderLayer) -> Patches:
        """The patches as they are.

        Raises:
            Refusal: the encoder runs fewer layers, its patches form no square that the regions divide, or attention is
                missing.
        """
        setting, patches = self.setting, at.patches
        count = patches.hidden_FND.shape[1] - patches.prefix
        end, side = setting.first_layer + setting.layers, math.isqrt(count)
        if setting.share == 1:
            return patches
        if end > at.layers:
            raise Refusal(f"HIVTP reads layers up to {end} of an encoder that runs {at.layers}; lower `first_layer`")
        if side**2 != count or side % setting.regions:
            raise Refusal(
                f"HIVTP cuts the patches in {setting.regions} · {setting.regions} equal regions, and here are {count}; "
                f"choose `regions` that divide the side of a square"
            )
        if setting.first_layer <= at.layer < end:
            score_FN = received_attention(patches, "HIVTP") / setting.layers
            self.score_FN = (
                score_FN if at.layer == setting.first_layer or self.score_FN is None else self.score_FN + score_FN
            )
        return patches

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The kept patches of each frame, filled up to those of the longest, without the class token.

        Raises:
            Refusal: an earlier technique merged or dropped patches since.
        """
        patches, self.lengths = at.patches, []
        if self.setting.share == 1 or self.score_FN is None:
            return patches
        if self.score_FN.shape != (len(patches.hidden_FND), patches.hidden_FND.shape[1] - patches.prefix):
            raise Refusal("HIVTP scored patches that an earlier technique has merged or dropped since; leave it out")
        index_FK, self.lengths = filled(hivtp(self.score_FN, self.setting.share, self.setting.regions))
        return replace(patches.keep(patches.prefix + index_FK), prefix=0, attention=None)

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The tokens without what filled them up.

        Raises:
            Refusal: another technique has left other tokens since.
        """
        return without_filling(at.tokens, self.lengths, "HIVTP") if self.lengths else at.tokens
