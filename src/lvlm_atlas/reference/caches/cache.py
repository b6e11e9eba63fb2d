"""The key-value cache: a store a layer, and how far the text has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lvlm_atlas.reference.caches.ledger import Ledger
from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.flow.trace import Trace


@dataclass
class Cache:
    """The stores of all layers, and how far the text has come."""

    stores: list[Store]
    ledgers: list[Ledger]
    """Which tokens the entries of each store are."""
    next_position: Tensor
    """Position id (B,) of the next token: one more than the prompt's last, whatever was evicted."""
    next_index: int = 0
    """Place of the next token in the text, the prompts and the answers; nothing that was evicted is missing there."""
    parents: list[int] = field(default_factory=list)
    """The unsettled tokens: for each the one it follows, counted from the oldest; −1 is the last settled token."""
    trace: Trace = field(default_factory=Trace)
    """Where it is counted what happens to the cache."""

    def retain(self, index_K: Tensor) -> None:
        """Of the unsettled tokens keep those at these places, each the child of the one before, and settle."""
        for store in self.stores:
            store.retain(index_K)
            store.settle()
        self.next_position = self.next_position + len(index_K)
        self.next_index += len(index_K)
        self.parents.clear()
        self.trace.note_settled([store.length for store in self.stores])

    def held(self, layer: int) -> Held:
        """Which tokens the settled entries of a layer are."""
        return self.ledgers[layer].catch_up(self.next_index, self.next_position)

    def real(self, layer: int) -> Tensor | None:
        """False where a settled entry (B, G, S) of a layer is padding, G one where heads are alike; None: nowhere."""
        return self.held(layer).real_BGS if self.ledgers and self.ledgers[layer].padded else None

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
        trace.note_cache([(self.held(layer), store.length) for layer, store in enumerate(self.stores)])
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
