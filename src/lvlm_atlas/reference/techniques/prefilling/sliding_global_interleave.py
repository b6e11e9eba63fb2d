"""Sliding–global interleave: most layers attend in a window and cache no more, every few layers one sees everything.

Paper: gemma2025gemma3. Code: huggingface/transformers, src/transformers/models/gemma3/configuration_gemma3.py and
modeling_gemma3.py (`layer_types`, `sliding_window`).

Symbols: `sliding_window` → `window_size`; `sliding_window_pattern` → `pattern`.

Departs:
1. The weights are those of a model that sees everything in each layer; one that is trained so is meant.
2. Positions are alike in all layers; that family turns keys of the local layers at another base.
3. Attention is causal everywhere; there the tokens of an image see one another both ways.
4. Drafted tokens are seen by those behind them until the round settles, so that in between a local layer holds, and
   reads, as many more.

B batch, G key-value heads, S entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import Attention, CacheStep
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.window import Window, window_attention  # noqa: F401 - a step of the entry


def is_global(layer: int, pattern: int) -> bool:
    """Whether a layer sees everything: the last of each `pattern`."""
    return (layer + 1) % pattern == 0


def newest(visible_BGS: Tensor, count: int) -> Tensor:
    """True (B, G, S) at the last `count` visible entries of each head."""
    number_BGS = visible_BGS.long().cumsum(dim=2)
    return visible_BGS & (number_BGS > number_BGS[:, :, -1:] - count)


@dataclass(frozen=True)
class SlidingGlobalInterleave(Technique):
    """The attention of prefill, and what the local layers cache of it.

    Raises:
        ValueError: an argument lies outside its range.
    """

    window_size: int = 1024
    """Most recent tokens that a token sees in a local layer, itself among them."""
    pattern: int = 6
    """Layers of which the last one is global."""

    acts_at: ClassVar = ("attention", "cache-step")
    needs: ClassVar = ("block-sparse-kernel", "equal-heads", "training-data")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        self.expect_at_least(2, "window_size")
        self.expect_at_least(1, "pattern")

    def choose_blocks(self, at: Attention) -> Window | None:
        """The window of a local layer; None in a global one, and where it covers everything."""
        if is_global(at.layer, self.pattern) or at.cached + at.sequence.length <= self.window_size:
            return None
        return Window(self.window_size)

    def evict(self, at: CacheStep) -> Tensor | None:
        """True (B, G, S) at what the next token will see besides itself; None where all stays."""
        if is_global(at.layer, self.pattern) or at.held.visible_BGS.shape[2] < self.window_size:
            return None
        return newest(at.held.visible_BGS, self.window_size - 1)
