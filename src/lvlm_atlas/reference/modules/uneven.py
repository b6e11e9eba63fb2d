"""Frames that keep different numbers of patches: filled up to the longest for the adapter, cut again behind it.

F frames, N patches, K patches of the frame that keeps most.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.refusal import Refusal


def filled(mask_FN: Tensor) -> tuple[Tensor, list[int]]:
    """Places (F, K) of the True elements, ascending, filled up behind them; and how many each frame has.

    The host waits for the numbers.
    """
    lengths = mask_FN.sum(dim=1).tolist()
    return (~mask_FN).byte().argsort(dim=1, stable=True)[:, : max(lengths)], lengths


def without_filling(tokens: VisionTokens, lengths: Sequence[int], name: str) -> VisionTokens:
    """The vision tokens of each frame without what filled them up; a tiled image has several frames in its block.

    Args:
        tokens: of each frame as many as the longest has, what fills it up last.
        lengths: tokens of each frame.
        name: of the technique, for the message.

    Raises:
        Refusal: another technique has left other tokens since.
    """
    longest, frames, kept = max(lengths), iter(lengths), []
    if sum(tokens.lengths) != longest * len(lengths) or any(block % longest for block in tokens.lengths):
        raise Refusal(
            f"{name} left {longest} tokens of each of {len(lengths)} frames, and here are {sum(tokens.lengths)}; "
            f"leave out what changes them in between"
        )
    device = tokens.blocks[0].token_ND.device
    for block in tokens.lengths:
        spans = zip(range(0, block, longest), frames, strict=False)
        kept.append(torch.cat([torch.arange(start, start + length, device=device) for start, length in spans]))
    return tokens.keep(kept)
