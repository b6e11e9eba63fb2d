"""Linear attention: a feature map in place of the exponential makes attention a sum over keys, kept as a state.

Paper: katharopoulos2020linear. Code: fla-org/flash-linear-attention, fla/ops/linear_attn/naive.py and
fla/layers/linear_attn.py.

Symbols: φ → `feature_map`; S, z → `State`; C → `chunk_size`.

Departs:
1. The projections are those of a model trained for softmax, so that what comes out is not what such a model would say;
   one that is trained, or converted and trained on, is meant.
2. Queries and keys are rotated before they are mapped, since positions have no other place here; φ keeps weights from
   being negative all the same.
3. The state has the model's type; the code sums in float32. Its layer has learned maps by default, does not divide by
   the sum of weights, and puts a norm in its place.

B batch, H query heads, G key-value heads, N tokens, e features, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lvlm_atlas.reference.caches.state import StateStore
from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.lvlm.contexts import Attention, CacheBits
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.attention import share_heads
from lvlm_atlas.reference.ops.blocks import Replacement
from lvlm_atlas.reference.ops.linear import FEATURE_MAPS, chunked


@dataclass(frozen=True)
class LinearAttention(Technique):
    """The attention of every layer, and in place of its cache a state.

    Raises:
        ValueError: an argument lies outside its range.
    """

    feature_map: str = "elu"
    """What queries and keys are mapped by: `elu`, which is elu(x) + 1, or `relu`."""
    chunk_size: int = 64
    """Tokens of a prompt that are read at once; it changes no result."""

    acts_at: ClassVar = ("attention", "cache-bits")
    needs: ClassVar = ("training-data",)
    withholds: ClassVar = ("attention-row", "unrotated-keys", "frames-apart", "equal-frames")

    def __post_init__(self) -> None:
        if self.feature_map not in FEATURE_MAPS:
            raise ValueError(f"feature_map must be one of {', '.join(FEATURE_MAPS)}, got {self.feature_map!r}")
        self.expect_at_least(1, "chunk_size")

    def begin(self, run: Run) -> States:  # noqa: ARG002 - the same for every run
        """The states of this run or session."""
        return States(self)


@dataclass
class States:
    """Linear attention in one run or session."""

    setting: LinearAttention
    stores: list[StateStore] = field(default_factory=list)

    def choose_blocks(self, at: Attention) -> Replacement:
        """The attention of a prompt, behind the state of what came before it."""
        feature_map, heads = FEATURE_MAPS[self.setting.feature_map], at.query_BHNd.shape[1]
        query_BHNe, key_BGNe = feature_map(at.query_BHNd), feature_map(at.key_BGNd)
        before = self.stores[at.layer].state if at.layer < len(self.stores) else None
        tensors = (query_BHNe, share_heads(key_BGNe, heads), share_heads(at.value_BGNd, heads))
        return Replacement(chunked(*tensors, self.setting.chunk_size, before and before.shared(heads))[0], 0)

    def new_store(self, at: CacheBits) -> Store:  # noqa: ARG002 - alike in all layers
        """A store that holds the state."""
        self.stores.append(StateStore(FEATURE_MAPS[self.setting.feature_map]))
        return self.stores[-1]
