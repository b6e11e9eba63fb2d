"""The key-value cache: a store a layer, entries added as unsettled and settled once they are verified."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.states import Entries


class Store(Protocol):
    """Holds the keys and values of one layer. A technique at `cache-bits` brings its own."""

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """Add entries at the end; they are unsettled: they may still be taken back."""

    def read(self) -> tuple[Tensor, Tensor]:
        """All keys and values (B, G, S, d), in order of arrival."""

    def retain(self, index_K: Tensor) -> None:
        """Of the unsettled entries keep those at these places (ascending), drop the others."""

    def settle(self) -> None:
        """Declare all entries final; a store may now change how it holds them."""

    @property
    def length(self) -> int:
        """Entries per head."""

    @property
    def byte(self) -> int:
        """Bytes that the stored tensors take."""


class PlainStore:
    """Keeps keys and values as they come."""

    def __init__(self) -> None:
        self._key = self._value = torch.empty(0)
        self._settled = 0

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """See `Store`."""
        if self.length:
            key_BGMd = torch.cat([self._key, key_BGMd], dim=2)
            value_BGMd = torch.cat([self._value, value_BGMd], dim=2)
        self._key, self._value = key_BGMd, value_BGMd

    def read(self) -> tuple[Tensor, Tensor]:
        """See `Store`."""
        return self._key, self._value

    def retain(self, index_K: Tensor) -> None:
        """See `Store`."""
        if len(index_K) == self.length - self._settled:
            return
        kept = torch.cat([torch.arange(self._settled, device=index_K.device), self._settled + index_K])
        self._key, self._value = self._key[:, :, kept], self._value[:, :, kept]

    def settle(self) -> None:
        """See `Store`."""
        self._settled = self.length

    @property
    def length(self) -> int:
        """See `Store`."""
        return self._key.shape[2] if self._key.dim() == 4 else 0

    @property
    def byte(self) -> int:
        """See `Store`."""
        return self._key.nbytes + self._value.nbytes


@dataclass
class Cache:
    """The stores of all layers, and how far the text has come."""

    stores: list[Store]
    prompt: list[Entries]
    """What each layer kept of the prompt; its tensors `vision_BGS` and `index_BGS` tell the entries apart."""
    next_position: int
    """Position id of the next token: the true length, whatever was evicted."""
    parents: list[int] = field(default_factory=list)
    """The unsettled tokens: for each the one it follows, counted from the oldest; −1 is the last settled token."""

    def retain(self, index_K: Tensor) -> None:
        """Of the unsettled tokens keep those at these places, each the child of the one before, and settle."""
        for store in self.stores:
            store.retain(index_K)
            store.settle()
        self.next_position += len(index_K)
        self.parents.clear()

    @property
    def byte(self) -> int:
        """Bytes of all layers."""
        return sum(store.byte for store in self.stores)
