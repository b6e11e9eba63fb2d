"""InfiniPot-V: a video's cache is cut back whenever it is full, by redundancy in time and by the length of values.

Paper: kim2025infinipotv; code: aiha-lab/InfiniPot-V, kvcache_utils.py and qwen_inference_ovu.py.

Symbols: the memory limit → `block_size`, what it is cut to → `compress_frames`, both in frames; α, TaR's part of it →
`tar_ratio`; r, the recent frames that TaR compares with, as a share of those cached → `query_ratio`.

Departs:
1. A session does not know its last frames. The code does: it leaves the last block as it is, and cuts less before it
   where few frames follow. Here the cache is cut whenever it is full, which may be after the last frames too.
2. The code compresses between blocks that it cuts itself. Here frames come as the rounds of a session bring them: the
   first `block_size`, then `block_size` − `compress_frames` at a time is what the code does. Of a round that brings
   more, all are cut to `compress_frames` at once.
3. The recent frames are at most as many as TaR's budget holds, and where it holds none TaR chooses none; the code
   fails there.
4. The layers behind the last whole quarter of the depth are pooled as the last quarter, not at all; the code fails.
5. Of entries with equal scores the earlier one is kept; the code leaves that open. TaR's choice goes first by rank;
   the code raises it above the largest value norm.

B batch, G key-value heads, F frames cached, R recent frames, T vision tokens a frame, S vision entries (F · T), K kept,
d head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import CacheStep
from lvlm_atlas.reference.lvlm.prompt import Prompt
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.places import mask_of, places_of, take
from lvlm_atlas.reference.ops.selection import top_mask, top_places
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal

POOLS: tuple[tuple[int, Callable[..., Tensor]] | None, ...] = (
    (7, functional.avg_pool3d),
    (5, functional.avg_pool2d),
    (3, functional.avg_pool1d),
    None,
)
"""Side and kind of the window over which value norms are averaged, for each quarter of the depth."""


def temporal_redundancy(key_BGSd: Tensor, recent: int, tokens: int) -> Tensor:
    """How alike each earlier entry is to the entries at its place in the recent frames (B, G, S − R · T).

    The mean cosine of its key with theirs.

    Args:
        key_BGSd: keys of the vision entries, frame after frame.
        recent: R, at least 1.
        tokens: T.
    """
    frame_BGFTd = unit(key_BGSd).reshape(*key_BGSd.shape[:2], -1, tokens, key_BGSd.shape[3])
    earlier, last = frame_BGFTd[:, :, :-recent], frame_BGFTd[:, :, -recent:]
    # The mean of cosines is the cosine with the mean of unit vectors.
    out: Tensor = (earlier * last.mean(dim=2, keepdim=True)).sum(-1).flatten(2)
    return out


def pooled(norm_BGV: Tensor, tokens: int, rows: int, layer: int, layers: int) -> Tensor:
    """Value norms averaged with their neighbours: in time, row and column in the first quarter of the layers, in row
    and column in the second, along the sequence in the third.

    Zeros outside count, as in the code.

    Args:
        norm_BGV: lengths of values.
        tokens: T.
        rows: rows of a frame's grid; divides T.
        layer: index of the layer.
        layers: how many there are.
    """
    pool = POOLS[min(layer // max(1, layers // len(POOLS)), len(POOLS) - 1)]
    if pool is None:
        return norm_BGV
    side, average = pool
    if average is functional.avg_pool1d:
        return average(norm_BGV, side, 1, side // 2)
    grid_BGFHW = norm_BGV.reshape(*norm_BGV.shape[:2], -1, rows, tokens // rows)
    side = min(side, *grid_BGFHW.shape[2:])
    side -= 1 - side % 2
    if side < 2:
        return norm_BGV
    return average(grid_BGFHW.flatten(0, 1), side, 1, side // 2).reshape(norm_BGV.shape)


def select(
    key_BGSd: Tensor, norm_BGV: Tensor, tokens: int, frames: int, tar_ratio: float = 0.5, query_ratio: float = 0.25
) -> Tensor:
    """Places (B, G, K), ascending, of the entries to keep: K = frames · T.

    First the recent frames and, up to TaR's budget, the earlier entries that are least redundant; then those with the
    longest values.

    Args:
        key_BGSd: keys of the vision entries, frame after frame.
        norm_BGV: length of each value, perhaps `pooled`.
        tokens: T.
        frames: frames whose number of entries stays.
        tar_ratio: TaR's share of those.
        query_ratio: share of the cached frames that are recent.
    """
    entries = frames * tokens
    budget = entries - round((1 - tar_ratio) * entries)
    recent = min(int(norm_BGV.shape[-1] // tokens * query_ratio), budget // tokens)
    first_BGS = torch.zeros_like(norm_BGV, dtype=torch.bool)
    if recent:
        last = recent * tokens
        score_BGP = -temporal_redundancy(key_BGSd, recent, tokens)
        first_BGS = functional.pad(top_mask(score_BGP, budget - last), (0, last), value=True)
    return top_places(norm_BGV, entries, first=first_BGS)


@dataclass(frozen=True)
class InfiniPotV(Technique):
    """At `cache-step`: whenever `block_size` frames are cached, every head keeps `compress_frames` frames' entries.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: more frames would stay than are cached.
    """

    block_size: int = 32
    compress_frames: int = 24
    tar_ratio: float = 0.5
    query_ratio: float = 0.25
    adaptive_pooling: bool = False

    acts_at: ClassVar = ("cache-step",)
    needs: ClassVar = ("modality-mask", "vision-in-sequence", "equal-frames", "frames-apart")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "block_size", "compress_frames")
        for name in ("tar_ratio", "query_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        if self.compress_frames > self.block_size:
            raise Refusal(
                f"compress_frames must be at most block_size, got {self.compress_frames} and {self.block_size}"
            )

    def begin(self, run: Run) -> Compressing:
        """What cuts the cache in this run or session."""
        return Compressing(self, run)


@dataclass
class Compressing:
    """InfiniPot-V in one run or session."""

    setting: InfiniPotV
    run: Run
    tokens: int = field(default=0)
    """T, of the frames cached so far."""

    def evict(self, at: CacheStep) -> Tensor | None:
        """True (B, G, S) at the entries that stay: all text, and of the vision entries those that `select` chooses.

        Raises:
            Refusal: frames have different numbers of vision tokens, or another technique has dropped some.
        """
        prompt, setting = self.run.prompt, self.setting
        if not at.prompt or prompt is None or not any(prompt.span_lengths):
            return None
        self._note(prompt)
        vision_BGS = at.held.vision_BGS & at.held.visible_BGS
        new_BG, all_BG = vision_BGS[..., -at.new :].sum(-1), vision_BGS.sum(-1)
        counts, held = (set(heads) for heads in torch.stack([new_BG, all_BG]).flatten(1).tolist())
        arrived = sum(prompt.span_lengths)
        if counts != {arrived}:
            raise Refusal(
                f"InfiniPot-V compares whole frames of {self.tokens} vision tokens, of {arrived} that arrived heads of "
                f"layer {at.layer} cache {' or '.join(map(str, sorted(counts)))}; leave out what drops some"
            )
        if len(held) > 1:
            raise Refusal(
                f"InfiniPot-V takes as many vision entries of every head, and those of layer {at.layer} hold "
                f"{' or '.join(map(str, sorted(held)))}; leave out what evicts some of one head"
            )
        index_BGV = places_of(vision_BGS)
        frames = index_BGV.shape[2] // self.tokens
        if frames < setting.block_size:
            return None
        key_BGSd, value_BGSd = at.read()
        norm_BGV = take(value_BGSd, index_BGV).norm(dim=-1)
        if setting.adaptive_pooling:
            norm_BGV = pooled(norm_BGV, self.tokens, self._rows(prompt), at.layer, at.layers)
        kept_BGK = select(
            take(key_BGSd, index_BGV), norm_BGV, self.tokens, setting.compress_frames, setting.tar_ratio,
            setting.query_ratio,
        )  # fmt: skip
        stays_BGS = mask_of(index_BGV.gather(-1, kept_BGK), vision_BGS.shape[-1])
        return ~vision_BGS | stays_BGS

    def _note(self, prompt: Prompt) -> None:
        """Take T from the frames of a round."""
        tokens = {*prompt.span_lengths} | ({self.tokens} if self.tokens else set())
        if len(tokens) > 1:
            raise Refusal(
                f"InfiniPot-V compares frames token by token, these have {', '.join(map(str, sorted(tokens)))}; give "
                f"frames of one size"
            )
        self.tokens = tokens.pop()

    def _rows(self, prompt: Prompt) -> int:
        """Rows of a frame's grid: told by its positions, or it is a square."""
        if prompt.position_BN.dim() == 3:
            row_T = prompt.position_BN[0, prompt.spans[0].to(prompt.position_BN.device), 1]
            rows = int(row_T.max() - row_T.min()) + 1
        else:
            rows = math.isqrt(self.tokens)
        if self.tokens % rows or (prompt.position_BN.dim() == 2 and rows**2 != self.tokens):
            raise Refusal(
                f"adaptive_pooling needs frames whose tokens fill a grid, {self.tokens} fill none; set it to false"
            )
        return rows
