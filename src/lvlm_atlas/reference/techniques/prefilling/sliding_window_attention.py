"""Sliding-window attention: in prefill each token sees the most recent tokens and the first ones, the attention sinks.

Paper: xiao2024streamingllm (attention sinks). Code: jiang2024minference, the baseline A-shape of
microsoft/MInference, `a_shape_kernel` and `streaming_forward` of minference/ops/streaming_kernel.py.

Symbols: `n_local` → `window_size`, `n_init` → `sink_size`.

Positions stay as they are. The cache form of the same idea, which drops entries and turns keys by their places in the
cache, is `streamingllm`; here every entry stays, and decoding reads all of them.

Departs:
1. Tokens behind a cache (a later round, a later chunk) look into it by the same rule, as `streaming_forward` does for
   fewer queries than keys; the patched models of the repository use the window in the first prefill alone.
2. Scores outside the band are never formed; the kernel forms those of whole blocks of 64 and masks them.

B batch, H query heads, G key-value heads, N tokens, S keys, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import Attention
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.window import Window, window_attention  # noqa: F401 - a step of the entry


def in_sight(keys: int, window_size: int, sink_size: int, device: torch.device | None = None) -> Tensor:
    """True (N, N) where a token, a row, sees another: itself, the window_size − 1 before it, and the first sink_size.

    The mask that `window_attention` follows without forming it.
    """
    place_N = torch.arange(keys, device=device)
    distance_NN = place_N[:, None] - place_N
    return (distance_NN >= 0) & ((distance_NN < window_size) | (place_N < sink_size))


@dataclass(frozen=True)
class SlidingWindowAttention(Technique):
    """The attention of prefill in every layer; decoding stays dense.

    Raises:
        ValueError: an argument lies outside its range.
    """

    window_size: int = 3968
    """Most recent tokens that a token sees, itself among them."""
    sink_size: int = 128
    """First tokens that every later token sees."""

    acts_at: ClassVar = ("attention",)
    needs: ClassVar = ("block-sparse-kernel",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "window_size")
        self.expect_at_least(0, "sink_size")

    def choose_blocks(self, at: Attention) -> Window | None:
        """The window and the sinks; None where they cover everything."""
        if at.cached + at.sequence.length <= self.window_size:
            return None
        return Window(self.window_size, self.sink_size)
