"""The key-value cache: a store a layer, and how far the text has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.flow.trace import Trace


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
    begun: tuple[Tensor, ...] = ()
    """Of the last unsettled tokens what entered each of the first layers (B, M, D), and what left the last that they
    have run through; empty where all have run through all layers."""
    trace: Trace = field(default_factory=Trace)
    """Where it is counted what happens to the cache."""

    @property
    def waiting(self) -> int:
        """Unsettled tokens that have not run through all layers."""
        return self.begun[0].shape[1] if self.begun else 0

    def retain(self, index_K: Tensor) -> None:
        """Of the unsettled tokens keep those at these places, each the child of the one before, and settle."""
        for store in self.stores:
            store.retain(index_K)
            store.settle()
        self.next_position = self.next_position + len(index_K)
        self.parents.clear()
        self.trace.note_settled([store.length for store in self.stores])

    def layer_byte(self) -> list[int]:
        """Bytes of the tensors of each layer; a tensor that an earlier layer holds counts there alone."""
        counted: set[int] = set()
        byte = []
        for store in self.stores:
            own = {tensor.data_ptr(): tensor.nbytes for tensor in store.tensors}
            byte.append(sum(size for place, size in own.items() if place not in counted))
            counted |= own.keys()
        return byte

    def count_prompt(self) -> None:
        """Count what the prompt has left in the cache."""
        trace, device = self.trace, self.next_position.device
        trace.kv_byte = self.layer_byte()
        on_host = (
            tensor
            for store in self.stores
            for tensor in (store.host_tensors if device.type == "cpu" else store.tensors)
            if tensor.device.type == "cpu"
        )
        trace.kv_resident_byte = sum(trace.kv_byte) - sum(tensor.nbytes for tensor in on_host)
        trace.kv_layers = sum(
            byte > 0 or store.length == 0 for byte, store in zip(trace.kv_byte, self.stores, strict=True)
        )
