"""A store whose heads hold different numbers of entries: one store a head, read as if they were equally long.

B batch, G key-value heads, M new entries, S entries of the longest head, K retained, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.states import Entries, Held
from lvlm_atlas.reference.ops.places import mask_of


class RaggedStore(Store):
    """Holds each head in a store of its own, so that nothing is held for a head but its entries.

    Args:
        new_store: an empty store for the entries of one head.
        entries: what the layer holds at first.
    """

    def __init__(self, new_store: Callable[[Entries], Store], entries: Entries) -> None:
        self._shape = entries.key_BGSd.shape[:2]
        self.heads: list[Store] = []
        for row in range(self._shape[0]):
            for head in range(self._shape[1]):
                own = entries.of_head(row, head)
                store = new_store(own)
                store.append(own.key_BGSd, own.value_BGSd)
                store.settle()
                self.heads.append(store)

    def announce(self, vision_BGM: Tensor) -> None:
        """See `Store`."""
        for store, vision_1M in zip(self.heads, torch.split(vision_BGM.flatten(0, 1), 1), strict=True):
            store.announce(vision_1M[None])

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """See `Store`."""
        rows = (x.flatten(0, 1).unbind() for x in (key_BGMd, value_BGMd))
        for store, key_Md, value_Md in zip(self.heads, *rows, strict=True):
            store.append(key_Md[None, None], value_Md[None, None])

    def read(self) -> tuple[Tensor, Tensor]:
        """See `Store`; shorter heads are padded with zeros in front."""
        longest = self.length
        padded = [[functional.pad(x, (0, 0, longest - x.shape[2], 0)) for x in store.read()] for store in self.heads]
        key, value = (torch.cat(parts).reshape(*self._shape, longest, -1) for parts in zip(*padded, strict=True))
        return key, value

    def read_at(self, index_BGR: Tensor, settled: int) -> tuple[Tensor, Tensor]:
        """See `Store`; places count the padding in front of shorter heads, for which any entry of theirs is read."""
        longest, parts = self.length, []
        for index_R, store in zip(index_BGR.flatten(0, 1), self.heads, strict=True):
            missing = longest - store.length
            own_R = (index_R - missing).clamp(min=0) if missing < settled else index_R[:0]
            read = store.read_at(own_R[None, None], max(0, settled - missing))
            parts.append([functional.pad(x, (0, 0, len(index_R) - len(own_R), 0)) for x in read])
        length = index_BGR.shape[2] + longest - settled
        key, value = (torch.cat(x).reshape(*self._shape, length, -1) for x in zip(*parts, strict=True))
        return key, value

    def logit_bias(self, query_BHMd: Tensor, key_BGRd: Tensor, held: Callable[[], Held]) -> Tensor | None:
        """See `Store`; all heads are held in the same way."""
        return self.heads[0].logit_bias(query_BHMd, key_BGRd, held)

    def retain(self, index_K: Tensor) -> None:
        """See `Store`."""
        for store in self.heads:
            store.retain(index_K)

    def settle(self) -> None:
        """See `Store`."""
        for store in self.heads:
            store.settle()

    def keep(self, index_BGK: Tensor) -> None:
        """See `Store`; places count the padding, and what stands there is not kept."""
        self.keep_where(mask_of(index_BGK, self.length))

    def keep_where(self, keep_BGS: Tensor) -> None:
        """Of the settled entries keep only those where it is True; heads may keep different numbers."""
        longest = self.length
        for keep_S, store in zip(keep_BGS.flatten(0, 1), self.heads, strict=True):
            store.keep(keep_S[longest - store.length :].nonzero()[:, 0][None, None])

    @property
    def length(self) -> int:
        """See `Store`: entries of the longest head."""
        return max(store.length for store in self.heads)

    @property
    def mean_length(self) -> float:
        """Entries a head, on average."""
        return sum(store.length for store in self.heads) / len(self.heads)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Store`."""
        return tuple(tensor for store in self.heads for tensor in store.tensors)

    @property
    def host_tensors(self) -> tuple[Tensor, ...]:
        """See `Store`."""
        return tuple(tensor for store in self.heads for tensor in store.host_tensors)

    @property
    def fetched_byte(self) -> int:
        """See `Store`."""
        return sum(store.fetched_byte for store in self.heads)
