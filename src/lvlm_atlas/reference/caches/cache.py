"""The key-value cache: a store a layer, and how far the text has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.states import Entries


@dataclass
class Cache:
    """The stores of all layers, and how far the text has come."""

    stores: list[Store]
    prompt: list[Entries]
    """What each layer kept of the prompt; its tensors `vision_BGS` and `index_BGS` tell the entries apart.

    Decoding does not read it; it is emptied when the decode loop begins, so that a store is the only holder.
    """
    next_position: Tensor
    """Position id (B,) of the next token: one more than the prompt's last, whatever was evicted."""
    real_BN: Tensor | None = None
    """False where the prompt has padding; None means nowhere."""
    parents: list[int] = field(default_factory=list)
    """The unsettled tokens: for each the one it follows, counted from the oldest; −1 is the last settled token."""

    def retain(self, index_K: Tensor) -> None:
        """Of the unsettled tokens keep those at these places, each the child of the one before, and settle."""
        for store in self.stores:
            store.retain(index_K)
            store.settle()
        self.next_position = self.next_position + len(index_K)
        self.parents.clear()

    @property
    def byte(self) -> int:
        """Bytes of all layers."""
        return sum(store.byte for store in self.stores)
