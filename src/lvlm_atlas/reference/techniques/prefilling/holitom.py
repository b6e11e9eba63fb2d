"""HoliTom: what stands still over stretches of a video is averaged, the rest thinned out, and again inside the LLM.

Paper: shao2025holitom; code: cokeshao/HoliTom, holitom/llava_arch.py and holitom/modeling_qwen2.py.

Symbols: `RETAIN_RATIO` → `keep_ratio`, T or τ → `similarity`, β → `centre`, D → `context`, K → `neighbours`,
`HOLITOM_k` → `layer`, `HOLITOM_r` → `reduction`, `MAX_WINDOW_SIZE` (1024) → no limit.

Departs:
1. Tokens are the model's own; the code pools those of LLaVA-OneVision's frames by 2 × 2, and their attention with them.
   Where an adapter has pooled, attention is averaged over the same grid.
2. The averaged tokens of a window stand in front of those of its first frame, as in the code for models without
   newlines; it sorts them by place and adds newlines for the others.
3. Of equal gains, scores and densities the earlier counts; the code adds noise of 1e-6 to densities.
4. Windows may be as long as the video; the code has a limit of 1024 frames.
5. The variable that turns the weight of the centre off, `NO_BETA`, is left out.
6. Tiled images are left to the LLM, as in the code, which compresses a video alone; stills that are not tiled are taken
   for a video.
7. Softmax, means and merging are in float32.

T frames, U pairs of neighbouring frames, N tokens of a frame, S that stand still, P patches, C clusters,
V vision tokens, K kept, M merged away, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches, Sequence
from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, EncoderOutput, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.modules.received import pooled, received_attention
from lvlm_atlas.reference.ops.clustering import density_peaks, knn_density, scaled_distance
from lvlm_atlas.reference.ops.places import mask_of
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


def gains(still_UN: Tensor) -> Tensor:
    """Tokens (T, T) that averaging saves in the window from one frame to another, 0 where it ends before it begins.

    Args:
        still_UN: whether each place stays as it is from a frame to the next, U = T − 1 rows.
    """
    frames = len(still_UN) + 1
    gain_TT = still_UN.new_zeros(frames, frames, dtype=torch.long)
    for first in range(frames - 1):
        so_far = still_UN[first:].long().cumprod(dim=0)
        length = torch.arange(1, len(so_far) + 1, device=still_UN.device)
        gain_TT[first, first + 1 :] = so_far.sum(dim=1) * length
    return gain_TT


def windows(gain: Seq[Seq[int]]) -> tuple[list[tuple[int, int]], int]:
    """The cut into windows, each from a first to a last frame, that saves most, and how many tokens it saves.

    Of equal cuts the one whose last window is the shortest counts.

    Args:
        gain: as `gains` has it.
    """
    best, begins = [0], []
    for last in range(len(gain)):
        saved = {first: best[first] + gain[first][last] for first in range(last, -1, -1)}
        begins.append(max(saved, key=saved.__getitem__))
        best.append(saved[begins[-1]])
    cut, last = [], len(gain) - 1
    while last >= 0:
        cut.append((begins[last], last))
        last = begins[last] - 1
    return cut[::-1], best[-1]


def by_density(x_ND: Tensor, count: int, centre: float, neighbours: int) -> Tensor:
    """Density peaks of the tokens, each moved towards the mean of those that are nearest to it: (`count`, D).

    Args:
        x_ND: the tokens.
        count: peaks, fewer than none is none.
        centre: weight of the peak itself; the mean of the others of its cluster, if there are any, has the rest.
        neighbours: tokens that a density counts, `count` at most.
    """
    if count < 1:
        return x_ND[:0]
    x_1ND = x_ND[None].float()
    distance_1NN = scaled_distance(x_1ND)
    place_1C, matching = density_peaks(distance_1NN, knn_density(distance_1NN, min(neighbours, count)), count)
    peak_CD = x_1ND[0, place_1C[0]]
    others_C1 = matching.merge(torch.ones_like(x_1ND[..., :1]))[0] - 1
    mean_CD = (matching.merge(x_1ND)[0] - peak_CD) / others_C1.clamp(min=1)
    return peak_CD.lerp(mean_CD, 1 - centre).where(others_C1 > 0, peak_CD).to(x_ND.dtype)


def by_attention(x_ND: Tensor, attention_N: Tensor, ratio: float, context: float, how: tuple[float, int]) -> Tensor:
    """⌈`ratio` · N⌉ tokens of a frame: those that get most attention, in order, and density peaks of the others.

    Args:
        x_ND: tokens of a frame that change.
        attention_N: what each receives in the encoder.
        ratio: share to keep.
        context: share of what is kept that are density peaks.
        how: weight of a centre and neighbours, see `by_density`.
    """
    keep = math.ceil(len(x_ND) * ratio)
    dominant = round(keep * (1 - context))
    chosen_N = mask_of(top_places(attention_N, dominant), len(x_ND))
    return torch.cat([x_ND[chosen_N], by_density(x_ND[~chosen_N], keep - dominant, *how)])


def outer(
    x_TND: Tensor, attention_TN: Tensor, keep_ratio: float, similarity: float, context: float, how: tuple[float, int]
) -> list[Tensor]:
    """The tokens (K, D) left of each frame; the first of a window has in front what stands still in all of it.

    Args:
        x_TND: tokens of the frames.
        attention_TN: what each receives in the encoder.
        keep_ratio: share of all tokens to keep.
        similarity: cosine with the frame before above which a place stands still.
        context: see `by_attention`.
        how: weight of a centre and neighbours, see `by_density`.
    """
    still_UN = functional.cosine_similarity(x_TND[:-1].float(), x_TND[1:].float(), dim=-1) > similarity
    cut, saved = windows(gains(still_UN).tolist())
    ratio = min(keep_ratio / ((attention_TN.numel() - saved) / attention_TN.numel()), 1.0)
    out = []
    for first, last in cut:
        still_N = still_UN[first:last].all(dim=0) & (first < last)
        mean_SD = x_TND[first : last + 1, still_N].float().mean(dim=0).to(x_TND.dtype)
        left = [by_density(mean_SD, round(len(mean_SD) * ratio), *how)]
        for x_ND, attention_N in zip(x_TND[first : last + 1], attention_TN[first : last + 1], strict=True):
            changing = by_attention(x_ND[~still_N], attention_N[~still_N], ratio, context, how)
            out.append(torch.cat([*left, changing]))
            left = []
    return out


def halved_into(kept_KD: Tensor, gone_MD: Tensor) -> Tensor:
    """Kept tokens (K, D) after each of the others, in order, was averaged with the kept one most like it.

    One that takes several is halved each time, so that the last of them counts half.
    """
    if not len(kept_KD):
        return kept_KD
    x_KD, y_MD = kept_KD.float(), gone_MD.float()
    into_MK = functional.one_hot((unit(y_MD) @ unit(x_KD).mT).argmax(dim=1), len(x_KD)).to(x_KD)
    halvings_M1 = (into_MK.flip(0).cumsum(0).flip(0) * into_MK).sum(dim=1, keepdim=True)
    left_K1 = 0.5 ** into_MK.sum(dim=0)[:, None]
    return (x_KD * left_K1 + into_MK.mT @ (y_MD * 0.5**halvings_M1)).to(kept_KD.dtype)


@dataclass(frozen=True)
class HoliTom(Technique):
    """Averages and thins out the video before the LLM, and merges once more before its layer `layer`.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    keep_ratio: float = 0.1
    """Share of the vision tokens that enters the LLM."""
    similarity: float = 0.65
    centre: float = 0.6
    context: float = 0.0
    neighbours: int = 7
    layer: int = 18
    """The first layer that runs on the tokens merged inside the LLM; the attention of the one before chooses."""
    reduction: float = 0.5
    """Share of the vision tokens that is merged away there."""

    acts_at: ClassVar = ("encoder-output", "adapter-output", "llm-layer")
    needs: ClassVar = (
        "encoder-attention", "free-patches", "visual-features", "modality-mask", "vision-in-sequence", "whole-grid",
        "equal-frames", "frames-apart", "attention-row",
    )  # fmt: skip
    withholds: ClassVar = ("whole-grid", "equal-frames", "frames-apart")

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], got {self.keep_ratio}")
        if not -1 <= self.similarity <= 1:
            raise ValueError(f"similarity must lie in [-1, 1], got {self.similarity}")
        self.expect_shares("centre", "context")
        self.expect_at_least(1, "neighbours", "layer")
        if not 0 <= self.reduction < 1:
            raise ValueError(f"reduction must lie in [0, 1), got {self.reduction}")

    def begin(self, run: Run) -> Merging:
        """What acts in a run.

        Raises:
            Refusal: the LLM has no layer of that index, or another technique may drop tokens between its layers.
        """
        expect_alone(run, self, "HoliTom merges a share of the tokens that entered the LLM")
        last = run.config.text.num_hidden_layers - 1
        if self.layer > last:
            raise Refusal(f"layer must be in 1..{last} for an LLM of {last + 1} layers, got {self.layer}")
        return Merging(self)


@dataclass
class Merging:
    """HoliTom in one run."""

    setting: HoliTom
    patches: Patches | None = None
    """Those of the frames encoded last."""

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The patches as they are, and noted."""
        self.patches = at.patches
        return at.patches

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The frames with fewer tokens, without places in the grid; tiled images as they are.

        Raises:
            Refusal: frames have different numbers of tokens, patches come without attention, or the tokens of a frame
                are no square.
        """
        tokens, patches, setting = at.tokens, self.patches, self.setting
        if patches is None or len(tokens.blocks) != len(patches.hidden_FND):
            return tokens
        if len({*tokens.lengths}) > 1:
            raise Refusal(f"HoliTom compares frames of equally many tokens, got {[*tokens.lengths]}; leave one out")
        x_TND = torch.stack([block.token_ND for block in tokens.blocks])
        attention_TN = pooled(received_attention(patches, "HoliTom"), x_TND.shape[1], "HoliTom")
        how = (setting.centre, setting.neighbours)
        left = outer(x_TND, attention_TN, setting.keep_ratio, setting.similarity, setting.context, how)
        return replace(tokens, blocks=tuple(map(Block, left)))

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, merged before layer `layer`."""
        sequence, attention = at.sequence, at.sequence.attention
        if at.layer != self.setting.layer or attention is None:
            return sequence
        place_V = sequence.vision_places()[0]
        score_V = attention.rows(slice(-1, None))[0, :, 0].mean(dim=0)[place_V]
        kept_K = top_places(score_V, round(len(place_V) * (1 - self.setting.reduction)))
        kept_V = mask_of(kept_K, len(place_V))
        x_VD = sequence.hidden_BND[0, place_V]
        merged_KD = halved_into(x_VD[kept_V], x_VD[~kept_V])
        hidden_BND = sequence.hidden_BND.index_copy(1, place_V[kept_V], merged_KD[None])
        return replace(sequence, hidden_BND=hidden_BND).keep_vision(kept_K[None])
