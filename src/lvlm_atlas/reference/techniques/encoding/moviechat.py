"""MovieChat: frames pass through a short memory, whose most similar neighbours are averaged until few are left to keep.

Paper: song2024moviechat, abstract; code: rese1f/MovieChat, MovieChat/models/moviechat.py (`encode_short_memory_frame`),
and its port to LLaVA-OneVision, MovieChat_Onevision/lmms_eval/models/llava_onevision_moviechat.py.

Symbols: `short_memory_length` → short_memory, `long_memory_length` → long_memory, `merge_frame_length` m →
merged_frames, frames of a fragment W → fragment_frames.

Departs:
1. Memory is made of vision tokens behind the adapter and read by the LLM itself, as in the port. In the first release
   it is made of a Q-Former's tokens and read by Video-LLaMA's, with positions stretched from 16 to 256 frames.
2. All frames of a clip are there at once; fragments follow each other, the last one may be shorter. Upstream samples as
   many frames as fill its fragments, so that its memory is never too long; here the oldest items go.
3. The similarity of two frames, the mean of the products of all pairs of their tokens, is taken as the product of their
   mean tokens, and merged frames are worked out once, from their weights: the same up to rounding.
4. An item is given the weighted mean of its frames' times, and of places; upstream's have none but their order.
5. The mode for questions at a moment of the video, which also reads the frames of the short memory, is not here.

F frames, K items of memory, M items of the short one, N tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.refusal import Refusal


def join(items: Tensor, first: Tensor) -> Tensor:
    """Items (M, …) with that at place `first` and its successor replaced by their mean: (M − 1, …)."""
    left, right = items[:-1], items[1:]
    place = torch.arange(len(left), device=items.device).reshape(-1, *[1] * (items.dim() - 1))
    return torch.where(place < first, left, torch.where(place == first, (left + right) / 2, right))


def consolidate(weight_MF: Tensor, mean_FD: Tensor, keep: int) -> Tensor:
    """Replace the two neighbours that are most alike by their mean until no more than `keep` items are left.

    Alike by the product of their mean tokens; of equals the earlier pair is taken. A mean counts as one item, whatever
    it is made of.

    Args:
        weight_MF: how much of each frame each item holds.
        mean_FD: mean token of each frame.
        keep: items to keep, at least 1.
    """
    weights, means = weight_MF, weight_MF @ mean_FD
    while len(weights) > keep:
        first = (means[:-1] * means[1:]).sum(-1).argmax()
        weights, means = join(weights, first), join(means, first)
    return weights


def remember(mean_FD: Tensor, fragment: int, merged: int, short: int, long: int, *, carry: bool = True) -> Tensor:
    """How much of each frame each item of the long memory holds (K, F), rows of sum 1.

    Args:
        mean_FD: mean token of each frame.
        fragment: frames after which the short memory is consolidated.
        merged: items that it then has, which are appended to the long memory.
        short: items that the short memory holds; the oldest leave it.
        long: items that the long memory holds; the oldest leave it.
        carry: whether they stay in the short memory too; else it is emptied.
    """
    frame_FF = torch.eye(len(mean_FD), dtype=mean_FD.dtype, device=mean_FD.device)
    recent, memory = frame_FF[:0], [frame_FF[:0]]
    for first in range(0, len(frame_FF), fragment):
        recent = consolidate(torch.cat([recent, frame_FF[first : first + fragment]])[-short:], mean_FD, merged)
        memory.append(recent)
        recent = recent if carry else recent[:0]
    return torch.cat(memory)[-long:]


@dataclass(frozen=True)
class MovieChat(Technique):
    """At `adapter-output`: the tokens of K items of memory in place of those of F frames.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: more items are left of a fragment than can be.
    """

    fragment_frames: int = 16
    merged_frames: int = 2
    short_memory: int = 18
    long_memory: int = 64
    carry: bool = True

    acts_at: ClassVar = ("adapter-output",)
    needs: ClassVar = ("visual-features", "equal-frames", "frames-apart")
    withholds: ClassVar = ("frames-apart",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "fragment_frames", "merged_frames", "short_memory", "long_memory")
        most = min(self.fragment_frames // 2 if self.carry else self.fragment_frames, self.short_memory)
        if self.merged_frames > most:
            share = "half of a fragment" if self.carry else "a fragment"
            raise Refusal(f"merged_frames must be no more than {share} or the short memory, {most}")

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """A block for each item of the long memory, in order of time.

        Raises:
            Refusal: frames hold different numbers of tokens.
        """
        tokens = at.tokens
        if len({*tokens.lengths}) != 1:
            raise Refusal(f"MovieChat averages frames token by token, but they hold {sorted({*tokens.lengths})} tokens")
        token_FND = torch.stack([block.token_ND for block in tokens.blocks])
        weight_KF = remember(
            token_FND.float().mean(1).cpu(), self.fragment_frames, self.merged_frames, self.short_memory,
            self.long_memory, carry=self.carry,
        )  # fmt: skip
        weights = {weight_KF.device: weight_KF, token_FND.device: weight_KF.to(token_FND.device)}
        place_FN2 = stacked([block.place_N2 for block in tokens.blocks])
        added_FNLD = stacked([block.deepstack_NLD for block in tokens.blocks])
        places: Iterable[Tensor | None] = [None] * len(weight_KF)
        added: Iterable[Tensor | None] = [None] * len(weight_KF)
        if place_FN2 is not None:
            places = weighed(weights[place_FN2.device], place_FN2).masked_fill((place_FN2 < 0).any(0), -1)
        if added_FNLD is not None:
            added = weighed(weights[added_FNLD.device], added_FNLD)
        blocks = map(Block, weighed(weights[token_FND.device], token_FND), places, added)
        time_T = None if tokens.time_T is None else weighed(weight_KF, tokens.time_T.cpu())
        return replace(tokens, blocks=tuple(blocks), time_T=time_T)


def stacked(frames: Sequence[Tensor | None]) -> Tensor | None:
    """What all frames have together (F, …); None where one has nothing."""
    known = [each for each in frames if each is not None]
    return torch.stack(known) if len(known) == len(frames) else None


def weighed(weight_KF: Tensor, frames: Tensor) -> Tensor:
    """Weighted means of frames (F, …), of whole numbers rounded: (K, …)."""
    means = torch.einsum("kf,f...->k...", weight_KF, frames.to(weight_KF.dtype))
    return (means if frames.is_floating_point() else means.round()).to(frames.dtype)
