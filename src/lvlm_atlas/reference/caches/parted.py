"""Entries of one layer held in several stores: by modality, or by head.

B batch, G key-value heads, S entries, M new entries, K retained, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.ops.places import places_of, take
from lvlm_atlas.reference.refusal import Refusal


class HeadStore(Store):
    """The heads of a layer in several stores, each with neighbouring heads of its own.

    Args:
        parts: how many heads each store holds, in order, and the store.
    """

    def __init__(self, parts: Sequence[tuple[int, Store]]) -> None:
        self.heads = [heads for heads, _ in parts]
        self.stores = [store for _, store in parts]

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """See `Store`.

        Raises:
            ValueError: the stores are for another number of heads.
        """
        if sum(self.heads) != key_BGMd.shape[1]:
            raise ValueError(f"the stores must be for {key_BGMd.shape[1]} heads together, got {self.heads}")
        for store, key, value in zip(
            self.stores, *(torch.split(x, self.heads, 1) for x in (key_BGMd, value_BGMd)), strict=True
        ):
            store.append(key, value)

    def announce(self, vision_BGM: Tensor) -> None:
        """See `Store`."""
        for store, part in zip(self.stores, torch.split(vision_BGM, self.heads, 1), strict=True):
            store.announce(part)

    def read(self) -> tuple[Tensor, Tensor]:
        """See `Store`."""
        return _beside([store.read() for store in self.stores])

    def read_at(self, index_BGR: Tensor, settled: int) -> tuple[Tensor, Tensor]:
        """See `Store`."""
        indices = torch.split(index_BGR, self.heads, 1)
        return _beside([store.read_at(one, settled) for store, one in zip(self.stores, indices, strict=True)])

    def logit_bias(self, query_BHMd: Tensor, key_BGRd: Tensor, held: Callable[[], Held]) -> Tensor | None:
        """See `Store`; all heads are held in the same way."""
        return self.stores[0].logit_bias(query_BHMd, key_BGRd, held)

    def retain(self, index_K: Tensor) -> None:
        """See `Store`."""
        for store in self.stores:
            store.retain(index_K)

    def settle(self) -> None:
        """See `Store`."""
        for store in self.stores:
            store.settle()

    def keep(self, index_BGK: Tensor) -> None:
        """See `Store`."""
        for store, index in zip(self.stores, torch.split(index_BGK, self.heads, 1), strict=True):
            store.keep(index)

    @property
    def length(self) -> int:
        """See `Store`."""
        return self.stores[0].length

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Store`."""
        return tuple(tensor for store in self.stores for tensor in store.tensors)

    @property
    def host_tensors(self) -> tuple[Tensor, ...]:
        """See `Store`."""
        return tuple(tensor for store in self.stores for tensor in store.host_tensors)

    @property
    def fetched_byte(self) -> int:
        """See `Store`."""
        return sum(store.fetched_byte for store in self.stores)


class SortedStore(Store):
    """Entries of prompts sorted into two stores; decoded ones go to the second.

    Args:
        first_BGS: True where an entry of the prompt belongs into the first store; as many in every head.
        first: it holds all that it is given, such as vision entries.
        second: such as for text.

    Raises:
        ValueError: the first store would hold different numbers of entries of different heads.
    """

    def __init__(self, first_BGS: Tensor, first: Store, second: Store) -> None:
        self.first, self.second = first, second
        self._announced_BGM: Tensor | None = None
        self._sort(first_BGS)

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """See `Store`; the prompt comes first, at once."""
        split = self._split
        if self.length:
            if self._announced_BGM is None:
                self.second.append(key_BGMd, value_BGMd)
                return
            first_BGM, self._announced_BGM = self._announced_BGM, None
            split = (places_of(first_BGM), places_of(~first_BGM))
            since = self.length - self._first_BGS.shape[2]
            self._sort(torch.cat([functional.pad(self._first_BGS, (0, since), value=False), first_BGM], dim=2))
        for store, index_BGK in zip((self.first, self.second), split, strict=True):
            if index_BGK.shape[2]:
                store.append(take(key_BGMd, index_BGK), take(value_BGMd, index_BGK))

    def announce(self, vision_BGM: Tensor) -> None:
        """See `Store`; vision entries go to the first store.

        Raises:
            Refusal: it would be given different numbers of entries of different heads.
        """
        count_BG = vision_BGM.sum(dim=2)
        if bool((count_BG != count_BG.flatten()[0]).any()):
            raise Refusal(f"heads must be given equally many vision entries, got {count_BG.tolist()}")
        self._announced_BGM = vision_BGM

    def read(self) -> tuple[Tensor, Tensor]:
        """See `Store`."""
        halves = [store.read() for store in (self.first, self.second) if store.length]
        key, value = (torch.cat(column, dim=2) for column in zip(*halves, strict=True))
        prompt = self._place_BGS.shape[2]
        key, value = (torch.cat([take(x, self._place_BGS), x[:, :, prompt:]], dim=2) for x in (key, value))
        return key, value

    def logit_bias(self, query_BHMd: Tensor, key_BGRd: Tensor, held: Callable[[], Held]) -> Tensor | None:
        """See `Store`; the first store says."""
        return self.first.logit_bias(query_BHMd, key_BGRd, held)

    def retain(self, index_K: Tensor) -> None:
        """See `Store`; all that is unsettled is in the second store."""
        self.second.retain(index_K)

    def settle(self) -> None:
        """See `Store`."""
        for store in (self.first, self.second):
            if store.length:
                store.settle()

    def keep(self, index_BGK: Tensor) -> None:
        """See `Store`.

        Raises:
            Refusal: heads would keep different numbers of entries of one of the stores.
        """
        later = int(index_BGK.max()) + 1 - self._first_BGS.shape[2] if index_BGK.numel() else 0
        first_BGS = functional.pad(self._first_BGS, (0, max(0, later)), value=False)
        kept_BGK = first_BGS.gather(2, index_BGK)
        count_BG = kept_BGK.sum(dim=2)
        if bool((count_BG != count_BG.flatten()[0]).any()):
            raise Refusal(
                f"heads must keep equally many of the entries that are held in one way, got {count_BG.tolist()}; take "
                f"the same number of each modality in every head"
            )
        for store, is_in_BGS, keep_BGK in ((self.first, first_BGS, kept_BGK), (self.second, ~first_BGS, ~kept_BGK)):
            if store.length:
                rank_BGK = (is_in_BGS.cumsum(dim=2) - 1).gather(2, index_BGK)
                store.keep(take(rank_BGK, places_of(keep_BGK)))
        self._sort(kept_BGK)

    @property
    def length(self) -> int:
        """See `Store`."""
        return self.first.length + self.second.length

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Store`; which entry is in which store takes no part."""
        return (*self.first.tensors, *self.second.tensors)

    @property
    def host_tensors(self) -> tuple[Tensor, ...]:
        """See `Store`."""
        return (*self.first.host_tensors, *self.second.host_tensors)

    @property
    def fetched_byte(self) -> int:
        """See `Store`."""
        return self.first.fetched_byte + self.second.fetched_byte

    def _sort(self, first_BGS: Tensor) -> None:
        """These are the entries of the first store, among those that were there when this was last decided."""
        self._first_BGS, self._split = first_BGS, (places_of(first_BGS), places_of(~first_BGS))
        # Where they stand once those of the second store follow those of the first.
        self._place_BGS = torch.cat(self._split, dim=2).argsort(dim=2)


def by_modality(
    vision_BGS: Tensor,
    vision: Callable[[], Store],
    text: Callable[[], Store],
    apart: Callable[[], Store] | None = None,
) -> Store:
    """A store whose vision entries are held in one way and the others, later ones among them, in another.

    Where heads hold different numbers of vision entries, each head has its own pair of stores.

    Args:
        vision_BGS: True where an entry of the prompt is visual.
        vision: makes an empty store for vision entries.
        text: makes one for the others.
        apart: makes one for the vision entries of a single head where heads differ; None: `vision` does.

    Raises:
        Refusal: sequences of a batch hold different numbers.
    """
    count_BG = vision_BGS.sum(dim=2)
    if count_BG.numel() == 1 or bool((count_BG == count_BG[0, 0]).all()):
        return SortedStore(vision_BGS, vision(), text())
    if bool((count_BG != count_BG[0]).any()):
        raise Refusal(f"sequences of a batch must hold equally many vision entries, got {count_BG.tolist()}")
    vision = apart or vision
    return HeadStore([(1, SortedStore(one, vision(), text())) for one in torch.split(vision_BGS, 1, 1)])


def _beside(read: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Keys and values of heads one after the other."""
    key, value = (torch.cat(column, dim=1) for column in zip(*read, strict=True))
    return key, value
