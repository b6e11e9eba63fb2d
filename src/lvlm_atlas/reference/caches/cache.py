"""The key-value cache: a store a layer, and how far the text has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.ledger import Ledger
from lvlm_atlas.reference.caches.reading import Reading, by_place, closed_up
from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.ops.attention import Rotary
from lvlm_atlas.reference.ops.places import take

Choose = Callable[[int, Store, int, Tensor], Tensor | None]
"""From a layer, its store, how many entries are settled and the queries of the new tokens (B, H, M, d) to the places
(B, G, R) of the settled entries to read; None: all."""


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
    rotary: Rotary | None = None
    """Rotates keys, held as they are before rotary, by their places in the cache when they are read; None: they are
    held rotated."""
    choose: Choose | None = None
    """What says which settled entries a pass reads; None: it reads all."""
    fetched_byte: int = 0
    """Bytes fetched from the host so far."""
    known_position_I: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """Where positions have several axes and keys are unrotated: the ids that tokens of the prompts had, ascending."""
    decoded_from: int = 0
    """The first id after those; from there on, decoded tokens count on."""

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

    def read(self, layer: int, query_BHMd: Tensor) -> Reading:
        """What new tokens with these queries attend to."""
        store = self.stores[layer]
        settled, real_BGR = store.length - len(self.parents), self.real(layer)
        index_BGR = self.choose(layer, store, settled, query_BHMd) if self.choose else None
        if index_BGR is None:
            # A store may read less than it holds, of its own accord; what is unsettled stands last.
            key, value = store.read()
            return Reading(key, value, key.shape[2] - len(self.parents), lambda: self.held(layer), real_BGR)
        if real_BGR is not None:
            real_BGR = take(real_BGR.expand(-1, index_BGR.shape[1], -1), index_BGR)
        pair = store.read_at(index_BGR, settled)
        return Reading(*pair, index_BGR.shape[2], lambda: self.held(layer).keep(index_BGR), real_BGR)

    def positions(self, reading: Reading, offset_M: Tensor, position_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Position ids under which unrotated keys are read: of the settled ones (B, G, R), of new tokens (B, G, M).

        Args:
            reading: what is read.
            offset_M: how many tokens stand between the settled entries and each of the new tokens.
            position_BM: position ids of the new tokens, were nothing evicted; (B, M, A) where axes differ.
        """
        if not len(self.known_position_I):
            return by_place(reading, offset_M)
        known_I = torch.cat([self.known_position_I, self._decoded(int(self.next_position.max()))]).unique()
        axes = reading.held().position_BGS.shape[3]
        position_BMA = position_BM if position_BM.dim() == 3 else position_BM[..., None].expand(-1, -1, axes)
        return closed_up(reading, position_BMA, known_I)

    def know(self, position_BN: Tensor, next_position: Tensor) -> None:
        """Remember the position ids of a prompt, and that of the token after it."""
        ids = [self.known_position_I, self._decoded(int(position_BN.min())), position_BN.flatten()]
        self.known_position_I = torch.cat([each.to(position_BN.device) for each in ids]).unique()
        self.decoded_from = int(next_position.max())

    def _decoded(self, end: int) -> Tensor:
        """Ids of decoded tokens, up to before `end`."""
        return torch.arange(self.decoded_from, max(end, self.decoded_from), device=self.known_position_I.device)

    def count_fetched(self) -> None:
        """Count what a pass over the new tokens has fetched from the host."""
        fetched_byte = sum(store.fetched_byte for store in self.stores)
        if fetched_byte > self.fetched_byte:
            self.trace.note_fetch(fetched_byte - self.fetched_byte, sum(self.layer_byte()))
            self.fetched_byte = fetched_byte

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
        self.fetched_byte = sum(store.fetched_byte for store in self.stores)
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
