"""FastVID: a video is cut where frames change; salient tokens of a segment stay, the others merge into a few anchors.

Paper: shen2025fastvid; code: LunarShen/FastVID, fastvid_llavaonevision/LLaVA-NeXT/llava/model/language_model/
modeling_qwen2.py (segments and merging) and fastvid_qwen25vl/lmms-eval/lmms_eval/models/qwenvlutils/
modeling_qwen2_5_vl.py (what frames and tokens are rated by).

Symbols: retention_ratio → `ratio`, DySeg_c → `segments`, DySeg_tau → `threshold`, STPrune_d → `context_share`, DTM_p →
`anchor_interval`, DTM_beta → `anchor_weight`, k of the density → `neighbours`.

Departs:
1. Frames are compared by the mean of their tokens, and tokens are rated by one query, the class token's, or where there
   is none the mean of all, against the mean key of each token's patches, as in the code for Qwen2.5-VL; that for LLaVA
   asks the pooling head of SigLIP for both, which the model itself does not run.
2. An anchor frame merges the tokens of its whole segment. The code for LLaVA-OneVision lets it merge its own alone
   where it has no more anchors than a frame that is a segment of its own.
3. An anchor frame has as many anchors at most as tokens that are not salient, a density as many neighbours, and there
   may be no anchors at all; the code fails there. Fewer frames than `segments` are a segment each.
4. Of equal scores the earlier token is chosen; the code adds noise of 1e-6 to densities.
5. Tokens that stand on no grid, those of tiled images, cannot be rated; they are refused where some are salient.
6. What is chosen lies between adapter and prompt. On models with one position axis positions are closed up; in the
   code they keep their gaps. What Qwen2.5-VL's code does besides, to leave out frames all but equal to the next, is
   not here.
7. DeepStack features are merged as their tokens are.

F frames or temporal patches, T of them in a segment, N tokens of a frame, O of them not salient, M those of a segment,
K anchors, Q patches and what stands before them, P patches, C tokens, H heads, d head dimension, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.clustering import density_peaks, knn_density, scaled_distance, segments
from lvlm_atlas.reference.ops.places import places_of, take
from lvlm_atlas.reference.ops.selection import top_mask
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


def lengths_of(frame_FD: Tensor, threshold: float, least: int) -> list[int]:
    """How many frames each segment has, in order.

    Args:
        frame_FD: a vector for each frame.
        threshold: cut between frames whose cosine lies below it.
        least: segments at least, cut where cosines are least.
    """
    unit_FD = unit(frame_FD.float())
    cosine_f = (unit_FD[:-1] * unit_FD[1:]).sum(dim=1)
    counts: list[int] = segments(cosine_f, threshold, min(least, len(frame_FD))).bincount().tolist()
    return counts


def saliency(query_FHd: Tensor, key_FHPd: Tensor, cell_P: Tensor, cells: int) -> Tensor:
    """Softmax (F, C) of a query over the mean keys of the patches that each token stands for, mean over heads.

    Args:
        query_FHd: what asks: the class token, or the mean of all.
        key_FHPd: keys of the patches.
        cell_P: the token of each patch.
        cells: C, tokens of a frame, each of one patch at least.
    """
    belongs_PC = functional.one_hot(cell_P, cells).to(key_FHPd.dtype)
    key_FHCd = (belongs_PC / belongs_PC.sum(dim=0)).mT @ key_FHPd
    logit_FHC = (key_FHCd @ query_FHd[..., None])[..., 0] * query_FHd.shape[-1] ** -0.5
    weight_FC: Tensor = logit_FHC.float().softmax(dim=-1).mean(dim=1)
    return weight_FC


def split_budget(tokens: int, ratio: float, context_share: float) -> tuple[int, int]:
    """Salient tokens of a frame, and its share of the anchors."""
    kept = int(tokens * ratio)
    return kept - int(kept * context_share), int(kept * context_share)


def anchor_counts(length: int, share: int, interval: int) -> list[int]:
    """Anchors in each frame of a segment: every `interval`-th, counted from the last, has an equal part of all.

    Args:
        length: T.
        share: anchors times frames is what the segment has; each anchor frame's part is rounded down.
        interval: frames from one anchor frame to the next.
    """
    each = length * share // math.ceil(length / interval)
    return [each if (length - 1 - frame) % interval == 0 else 0 for frame in range(length)]


def anchors(x_OD: Tensor, count: int, neighbours: int) -> Tensor:
    """Places (K,), ascending, of the `count` density peaks, all tokens if there are fewer."""
    distance_BOO = scaled_distance(x_OD[None])
    centre_BK, _ = density_peaks(distance_BOO, knn_density(distance_BOO, neighbours), min(count, len(x_OD)))
    return centre_BK[0]


def merge_weights(x_MD: Tensor, anchor_K: Tensor, anchor_weight: float) -> Tensor:
    """Weights (K, M) of the tokens in what each anchor becomes; a row sums to 1.

    A token goes to the anchor of greatest cosine. An anchor with m tokens becomes w · itself + (1 − w) · their mean,
    w = max(1 / (m + 1), `anchor_weight`); it is one of the m, unless an equal anchor stands before it.

    Args:
        x_MD: tokens of a segment, without the salient ones.
        anchor_K: places of the anchors among them.
        anchor_weight: least share of the anchor.
    """
    unit_MD = unit(x_MD.float())
    nearest_M = (unit_MD @ unit_MD[anchor_K].mT).argmax(dim=1)
    belongs_KM = functional.one_hot(nearest_M, len(anchor_K)).mT.float()
    members_K1 = belongs_KM.sum(dim=1, keepdim=True)
    own_K1 = (1 / (members_K1 + 1)).clamp(min=anchor_weight)
    itself_KM = functional.one_hot(anchor_K, len(x_MD)).float()
    return own_K1 * itself_KM + (1 - own_K1) * belongs_KM / members_K1.clamp(min=1)


@dataclass(frozen=True)
class FastVID(Technique):
    """At `encoder-output` it rates, at `adapter-output` it segments, keeps and merges, frame by frame.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    ratio: float = 0.1
    segments: int = 8
    threshold: float = 0.9
    context_share: float = 0.4
    anchor_interval: int = 4
    anchor_weight: float = 0.6
    neighbours: int = 4

    acts_at: ClassVar = ("encoder-output", "adapter-output")
    needs: ClassVar = ("encoder-attention", "visual-features", "whole-grid", "equal-frames", "frames-apart")
    withholds: ClassVar = ("equal-frames", "whole-grid")

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must lie in (0, 1], got {self.ratio}")
        self.expect_shares("context_share", "anchor_weight")
        self.expect_at_least(1, "segments", "anchor_interval", "neighbours")
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [-1, 1], got {self.threshold}")

    def begin(self, run: Run) -> Condensing:  # noqa: ARG002 - it needs to know nothing of the run
        """What acts in a run."""
        return Condensing(self)


@dataclass
class Condensing:
    """FastVID, and the patches of the clip that is encoded now."""

    setting: FastVID
    patches: Patches | None = None

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The patches as they are."""
        self.patches = at.patches
        return at.patches

    @staticmethod
    def grid(tokens: VisionTokens) -> tuple[int, int]:
        """Rows and columns of the tokens of each frame, which are equally many.

        Raises:
            Refusal: they stand on no grid.
        """
        count = tokens.lengths[0]
        grid = tokens.grid or (math.isqrt(count), math.isqrt(count))
        if count != math.prod(grid):
            raise Refusal(
                f"FastVID rates the tokens of a frame by the patches under them, but {count} stand on no grid; give a "
                f"video, or images that are not cut into tiles, or set `context_share` to 1"
            )
        return grid

    def rated(self, frames: int, grid: tuple[int, int]) -> Tensor:
        """Saliency (F, N) of the tokens of each frame.

        Raises:
            Refusal: patches come without attention, are those of other frames, or do not stand on a grid.
        """
        patches = self.patches
        if patches is None or patches.attention is None or patches.place_FN2 is None:
            raise Refusal(
                "FastVID rates tokens by the attention of the encoder's patches, which an earlier technique left out"
            )
        prefix, count = patches.prefix, patches.hidden_FND.shape[1] - patches.prefix
        rows, columns = patches.grid or (math.isqrt(count), math.isqrt(count))
        if len(patches.hidden_FND) != frames or rows * columns != count or rows < grid[0] or columns < grid[1]:
            raise Refusal(
                f"FastVID reads frames of a video, a grid of patches each, and here are {len(patches.hidden_FND)} of "
                f"{count} patches for {frames} of tokens; give images that are not cut into tiles"
            )
        query_FHQd, key_FHQd = patches.attention.query_BHNd, patches.attention.key_BGNd
        query_FHd = query_FHQd[:, :, 0] if prefix else query_FHQd.mean(dim=2)
        place_P2 = patches.place_FN2[0, prefix:]
        cell_P = place_P2[:, 0] * grid[0] // rows * grid[1] + place_P2[:, 1] * grid[1] // columns
        return saliency(query_FHd, key_FHQd[:, :, prefix:], cell_P, grid[0] * grid[1])

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The salient tokens and anchors of each frame, in reading order; a frame may be left with none.

        Raises:
            Refusal: frames have different numbers of tokens, or see `grid` and `rated`.
        """
        tokens, setting = at.tokens, self.setting
        if not tokens.blocks:
            return tokens
        if len({*tokens.lengths}) > 1:
            raise Refusal(f"FastVID reads frames of equally many tokens, got {[*tokens.lengths]}; give a video")
        x_FND = torch.stack([block.token_ND for block in tokens.blocks])
        salient, share = split_budget(x_FND.shape[1], setting.ratio, setting.context_share)
        salient_FN = torch.zeros_like(x_FND[:, :, 0], dtype=torch.bool)
        if salient:
            salient_FN = top_mask(self.rated(len(x_FND), self.grid(tokens)), salient)
        other_FO = places_of(~salient_FN)
        lengths = lengths_of(x_FND.float().mean(dim=1), setting.threshold, setting.segments)
        blocks: list[Block] = []
        for end, length in zip(accumulate(lengths), lengths, strict=True):
            part = slice(end - length, end)
            blocks += self.segment(tokens.blocks[part], salient_FN[part], other_FO[part], share)
        return replace(tokens, blocks=tuple(blocks))

    def segment(self, blocks: Sequence[Block], salient_TN: Tensor, other_TO: Tensor, share: int) -> Iterator[Block]:
        """What is left of each frame of a segment."""
        setting, others = self.setting, other_TO.shape[1]
        x_TOD = take(torch.stack([block.token_ND for block in blocks]), other_TO)
        added = [block.deepstack_NLD for block in blocks if block.deepstack_NLD is not None]
        added_TOLD = take(torch.stack(added), other_TO) if added else None
        counts = anchor_counts(len(blocks), share, setting.anchor_interval)
        for time, (block, count) in enumerate(zip(blocks, counts, strict=True)):
            stays_N, changed = salient_TN[time], block
            if count and others:
                anchor_K = anchors(x_TOD[time], count, setting.neighbours)
                weight_KM = merge_weights(x_TOD.flatten(0, 1), time * others + anchor_K, setting.anchor_weight)
                place_K = other_TO[time, anchor_K]
                stays_N = stays_N.index_fill(0, place_K, value=True)
                changed = replace(
                    block,
                    token_ND=block.token_ND.index_copy(0, place_K, _mixed(weight_KM, x_TOD)),
                    deepstack_NLD=block.deepstack_NLD
                    if added_TOLD is None or block.deepstack_NLD is None
                    else block.deepstack_NLD.index_copy(0, place_K, _mixed(weight_KM, added_TOLD)),
                )
            yield changed.keep(stays_N.nonzero()[:, 0])


def _mixed(weight_KM: Tensor, x: Tensor) -> Tensor:
    """Weighted sums of what tokens (T, O, …) hold: (K, …)."""
    flat = x.flatten(0, 1)
    return (weight_KM @ flat.flatten(1).float()).reshape(-1, *flat.shape[1:]).to(x.dtype)
