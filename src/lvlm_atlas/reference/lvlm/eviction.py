"""Eviction as tokens settle: the policies of a run, one after the other, over the entries of a layer.

B batch, H query heads, G key-value heads, R query rows, S entries, K kept, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.lvlm.contexts import CacheStep
from lvlm_atlas.reference.ops.places import take, uneven_places


@dataclass(frozen=True)
class Eviction:
    """What acts at `cache-step` in a run; see `lvlm_atlas.reference.caches.cache.Policy`."""

    policies: Seq[Any]
    layers: int

    def __call__(
        self,
        layer: int,
        held: Held,
        new: int,
        rows: Callable[[slice], Tensor],
        read: Callable[[], tuple[Tensor, Tensor]],
        *,
        prompt: bool = False,
        entered: Mapping[int, Tensor] | None = None,
    ) -> Tensor | None:
        """See `Policy`: each policy sees what those before it have left."""
        earlier = held.length - new
        at, kept_BGS = CacheStep(layer, self.layers, held, new, rows, read, prompt, entered or {}, earlier), None
        for number, policy in enumerate(self.policies, start=1):
            keep_BGS = policy.evict(at)
            if keep_BGS is None:
                continue
            keep_BGS = keep_BGS & at.held.visible_BGS
            kept_BGS = keep_BGS if kept_BGS is None else _among(kept_BGS, keep_BGS)
            if number < len(self.policies):
                at = _left(at, keep_BGS)
        return kept_BGS


def _among(first_BGS: Tensor, second_BGK: Tensor) -> Tensor:
    """True (B, G, S) at what is kept by the first mask, and of that by the second."""
    index_BGK, real_BGK = uneven_places(first_BGS)
    return torch.zeros_like(first_BGS).scatter(-1, index_BGK, second_BGK & real_BGK)


def _left(at: CacheStep, keep_BGS: Tensor) -> CacheStep:
    """The context of the next policy."""
    index_BGK, _ = uneven_places(keep_BGS)
    new = int((index_BGK >= at.held.length - at.new).sum(dim=-1).max())

    def rows(index: slice) -> Tensor:
        return columns(at.rows(index), index_BGK)

    def read() -> tuple[Tensor, Tensor]:
        key_BGSd, value_BGSd = at.read()
        return take(key_BGSd, index_BGK), take(value_BGSd, index_BGK)

    return replace(at, held=at.held.keep_where(keep_BGS), new=new, rows=rows, read=read)


def columns(weight_BHRS: Tensor, index_BGK: Tensor) -> Tensor:
    """Columns of attention rows, head by head: (B, H, R, K)."""
    batch, heads, rows, _ = weight_BHRS.shape
    index_BHK = index_BGK.repeat_interleave(heads // index_BGK.shape[1], dim=1)
    return weight_BHRS.gather(3, index_BHK[:, :, None].expand(batch, heads, rows, index_BHK.shape[2]))
