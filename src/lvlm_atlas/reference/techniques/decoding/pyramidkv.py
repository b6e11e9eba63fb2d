"""PyramidKV: SnapKV's choice of entries with a budget that falls from layer to layer.

Paper: cai2024pyramidkv; budgets as in the official code (`pyramidkv/pyramidkv_utils.py`, `PyramidKVCluster`), defaults
as in its LongBench script (`run_longbench.py`).
Symbols: α → `window_size`; β → `beta`; the mean capacity of a layer → `max_capacity_prompt`, the window among it.

Departs:
1. Key-value heads that serve several query heads vote by the mean or maximum of these (`group`), which the official
   code does with `kv_cache_granularity` alone; it repeats the keys for every query head otherwise.
2. Kept entries stay in reading order, and of equal votes the earlier entry is kept; the official code leaves both to
   `topk`.
3. Votes are summed in float32; the official code rounds attention to the model's type first.
4. Budgets follow from what the layer holds, which differs between layers where prompts are pruned between them, and
   from the tokens read now where a prompt comes in chunks. The official code compresses one whole prompt.
5. The code also merges what it evicts, if asked; that is not followed.

B batch, G key-value heads, W entries before the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.budget import pyramid_budgets
from lvlm_atlas.reference.techniques.decoding.snapkv import check_window, observe, select


@dataclass(frozen=True)
class PyramidKV(Technique):
    """PyramidKV at `cache-tokens`.

    Raises:
        ValueError: a parameter out of its range.
        Refusal: the window fills the capacity.
    """

    window_size: int = 8
    """Tokens at the end of the prompt that vote; their entries are kept in every layer."""
    max_capacity_prompt: int = 2048
    """Entries that a head keeps of the prompt, on average over layers, the window among them; a shorter prompt is left
    alone."""
    beta: int = 20
    """Steepness β: the last layer keeps about a β-th of the mean besides the window; 1 makes all layers alike."""
    kernel_size: int = 7
    """Neighbouring entries whose votes are pooled; odd, 1 pools nothing."""
    pooling: str = "maxpool"
    """How they are pooled, `avgpool` or `maxpool`."""
    group: str = "mean"
    """How query heads that share a key-value head vote together, `mean` or `max`."""

    acts_at: ClassVar = ("cache-tokens",)
    needs: ClassVar = ("attention-row",)
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        check_window(self.window_size, self.max_capacity_prompt, self.kernel_size, self.pooling, self.group)
        self.expect_at_least(1, "beta")

    def compress_cache(self, at: CacheTokens) -> Entries:
        """The entries that the layer caches.

        Raises:
            Refusal: another technique has evicted entries of this layer before.
        """
        length = at.entries.key_BGSd.shape[2]
        if length < self.max_capacity_prompt:
            return at.entries
        budgets = pyramid_budgets(self.max_capacity_prompt, self.window_size, self.beta, at.layers, length)
        vote_BGW = observe(at, self.window_size, self.kernel_size, self.pooling, self.group, "PyramidKV")
        return at.entries.keep(select(vote_BGW, budgets[at.layer], self.window_size))
