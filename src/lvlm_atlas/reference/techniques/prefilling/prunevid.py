"""PruneVid: static spots of a scene become one token over time, like tokens one in space, and the question chooses.

Paper: huang2025prunevid; code: Visual-AI/PruneVid, models/pllava/modeling_pllava.py (`merge_frames_dynamic`,
`refine_clusters`, `cluster_dpc_knn`), elastic_cache.py (`VTPWindowCache`) and llama.py.

Symbols: temporal_segment_ratio γ → `segment_ratio`, tau τ → `threshold`, cluster_ratio β → `cluster_ratio`, k = 7 →
`neighbours`, 14 → `spared`, selected_layer → `layer`, alpha α → `keep_ratio`.

Departs:
1. The question's attention is that of `layer` as it is, rotated and causal; the code forms the map anew without rotary
   positions and mask.
2. Merged tokens come in the order of their clusters' centres in the image; the code's come by falling peak. Of equal
   scores the earlier token counts; the code adds noise of 1e-6 to densities.
3. There is one cluster at least, of frames and of tokens, and at most as many neighbours as tokens; a segment of one
   frame is all dynamic. The code divides by zero or fails there.
4. Where tokens were dropped between, of each group the share of what is left of it stays.
5. Positions are those of the prompt of merged tokens, with gaps where the question dropped some; so in the code, which
   numbers decoded tokens by the merged prompt too.

T frames, W of a segment, N tokens of each, M tokens of a set, V vision tokens, J groups, B batch, R rows, H heads, G
key-value heads, S entries, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Entries, Sequence
from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, CacheLayers, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.clustering import density_peaks, knn_density, scaled_distance
from lvlm_atlas.reference.ops.merging import Matching, merge_wavg
from lvlm_atlas.reference.ops.places import places_of
from lvlm_atlas.reference.ops.selection import top_mask_of_groups
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


def clusters(x_MD: Tensor, count: int, neighbours: int) -> Matching:
    """Which tokens go into which of `count` clusters around density peaks, those numbered by their centres' places."""
    distance_BMM = scaled_distance(x_MD[None])
    return density_peaks(distance_BMM, knn_density(distance_BMM, neighbours), max(1, count))[1]


def contiguous(label: list[int]) -> list[int]:
    """How long the segments are that clusters of frames leave, in order.

    Of a cluster only its longest runs stand, those equally long all, and none of a single frame. What lies between goes
    to the longer of the runs beside it, from left to right, to the left one if they are equally long.

    Args:
        label: the cluster of each frame.
    """
    runs = [(each, len([*run])) for each, run in groupby(label)]
    longest = {each: max(length for other, length in runs if other == each) for each, _ in runs}
    stands = [each if 1 < longest[each] == length else None for each, length in runs]
    final = [each for each, (_, length) in zip(stands, runs, strict=True) for _ in range(length)]
    end = 0
    for each, run in groupby([*final]):
        start, end = end, end + len([*run])
        if each is None:
            left, right = _run(final[:start][::-1]), _run(final[end:])
            final[start:end] = [(final[end] if right > left else final[start - 1] if left else 0)] * (end - start)
    return [len([*run]) for _, run in groupby(final)]


def _run(label: list[int | None]) -> int:
    """How many labels at the beginning are alike."""
    return next((length for length, each in enumerate(label) if each != label[0]), len(label))


def static_spots(x_WND: Tensor, threshold: float) -> Tensor:
    """True (N,) where the mean cosine of all pairs of different frames is above the threshold; none in one frame."""
    frames = len(x_WND)
    if frames == 1:
        return torch.zeros_like(x_WND[0, :, 0], dtype=torch.bool)
    square_N = unit(x_WND.float()).sum(dim=0).square().sum(dim=-1)
    return (square_N - frames) / (frames * (frames - 1)) > threshold


def merged(x_MD: Tensor, cluster_ratio: float, spared: int, neighbours: int) -> Tensor:
    """The means (K, D) of ⌊M · `cluster_ratio`⌋ clusters; a set of at most `spared` tokens stays as it is."""
    if len(x_MD) <= spared:
        return x_MD
    matching = clusters(x_MD, int(len(x_MD) * cluster_ratio), neighbours)
    return merge_wavg(matching, x_MD[None])[0][0]


def question_score(row_BHRN: Tensor, place_BV: Tensor) -> Tensor:
    """The greatest attention (B, V) that any word of the question pays to a vision token in any head.

    Args:
        row_BHRN: softmax rows of the words behind the video.
        place_BV: where the vision tokens stand among the N.
    """
    return row_BHRN.amax(dim=(1, 2)).gather(1, place_BV)


@dataclass(frozen=True)
class PruneVid(Technique):
    """Merges at `adapter-output`, chooses at `llm-layer`, and at `cache-layers` forgets what was not chosen.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    segment_ratio: float = 0.25
    threshold: float = 0.8
    cluster_ratio: float = 0.5
    spared: int = 14
    neighbours: int = 7
    layer: int = 10
    keep_ratio: float = 0.4

    acts_at: ClassVar = ("adapter-output", "llm-layer", "cache-layers")
    needs: ClassVar = (
        "attention-row", "modality-mask", "vision-in-sequence", "visual-features", "one-position-axis", "equal-frames",
        "frames-apart",
    )  # fmt: skip
    withholds: ClassVar = ("equal-frames", "frames-apart", "whole-grid")

    def __post_init__(self) -> None:
        for name in ("segment_ratio", "cluster_ratio", "keep_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        for name, least in (("spared", 1), ("neighbours", 1), ("layer", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [-1, 1], got {self.threshold}")

    def begin(self, run: Run) -> Pruning:
        """What acts in a run.

        Raises:
            Refusal: the LLM has no layer behind `layer`.
        """
        last = run.config.text.num_hidden_layers - 2
        if self.layer > last:
            raise Refusal(f"layer must lie in 0..{last}, so that a layer follows it, got {self.layer}")
        return Pruning(self, run)


@dataclass
class Pruning:
    """PruneVid in one run or session."""

    setting: PruneVid
    run: Run
    group: list[int] = field(default_factory=list)
    """The group of each vision token of the prompt that is read."""
    dropped_BD: Tensor | None = None
    """Places in the text of what the question did not choose."""

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """A block for each frame: its dynamic tokens, in the first of a segment behind the static ones.

        Raises:
            Refusal: frames have different numbers of tokens.
        """
        tokens = at.tokens
        if len({*tokens.lengths}) > 1:
            raise Refusal(f"PruneVid compares frames of equally many tokens, got {[*tokens.lengths]}; leave one out")
        if not sum(tokens.lengths):
            return tokens
        x_TND = torch.stack([block.token_ND for block in tokens.blocks])
        frames = int(len(x_TND) * self.setting.segment_ratio)
        label = clusters(x_TND.mean(dim=1), frames, self.setting.neighbours).group_BN[0].tolist()
        blocks = [block for part_WND in x_TND.split(contiguous(label)) for block in self.segment(part_WND)]
        return replace(tokens, blocks=tuple(blocks), grid=None)

    def segment(self, x_WND: Tensor) -> Iterator[Block]:
        """What becomes of the frames of a segment."""
        setting = self.setting
        static_N = static_spots(x_WND, setting.threshold)
        sizes = (setting.cluster_ratio, setting.spared, setting.neighbours)
        before = [merged(x_WND[:, static_N].mean(dim=0), *sizes)]
        for x_ND in x_WND:
            parts = [*before, merged(x_ND[~static_N], *sizes)]
            for part in parts:
                self.group += [self.group[-1] + 1 if self.group else 0] * len(part)
            before = []
            yield Block(torch.cat(parts))

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, behind `layer` with the share of each group that the question attends to most.

        Raises:
            Refusal: no text follows the last vision token, or another technique has merged vision tokens since.
        """
        sequence, attention = at.sequence, at.sequence.attention
        if at.layer != self.setting.layer + 1 or attention is None:
            return sequence
        group, self.group, self.dropped_BD = self.group, [], None
        place_BV, prompt = sequence.vision_places(), self.run.prompt
        if not place_BV.shape[1] or prompt is None:
            return sequence
        behind = int(place_BV[:, -1].max()) + 1
        if behind == sequence.length:
            raise Refusal("PruneVid lets the text behind the last vision token choose, got none")
        was_vision_P = prompt.vision_BN[0].to(place_BV.device)
        if int(was_vision_P.sum()) != len(group):
            raise Refusal(
                "PruneVid chooses among the tokens that it merged, and here are others; leave out what made them"
            )
        first = sequence.last_index + 1 - len(was_vision_P)
        index_BV = sequence.index_BN.gather(1, place_BV)
        rank_BV = was_vision_P.cumsum(dim=0)[index_BV - first] - 1
        group_BV = torch.tensor(group, device=place_BV.device)[rank_BV]
        keep_J = (group_BV[0].bincount().double() * self.setting.keep_ratio).long()
        score_BV = question_score(attention.rows(slice(behind, None)), place_BV)
        kept_BV = top_mask_of_groups(score_BV, group_BV, keep_J)
        self.dropped_BD = index_BV.gather(1, places_of(~kept_BV))
        return sequence.keep_vision(places_of(kept_BV))

    def compress_caches(self, at: CacheLayers) -> tuple[Entries, ...]:
        """The entries of each layer, in those up to `layer` without the tokens that were not chosen."""
        if self.dropped_BD is None:
            return at.entries
        last = self.setting.layer
        return tuple(self._left(entries) if layer <= last else entries for layer, entries in enumerate(at.entries))

    def _left(self, entries: Entries) -> Entries:
        gone = [torch.isin(*pair) for pair in zip(entries.index_BGS, self.dropped_BD, strict=True)]  # type: ignore[arg-type]
        return entries.keep_where(~torch.stack(gone))
