"""The key-value cache: a store a layer, and how far the text has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.ledger import Ledger
from lvlm_atlas.reference.caches.ragged import RaggedStore
from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.ops.places import places_of
from lvlm_atlas.reference.refusal import Refusal


class Policy(Protocol):
    """Says which of a layer's entries stay once tokens have settled there."""

    def __call__(
        self,
        layer: int,
        held: Held,
        new: int,
        rows: Callable[[slice], Tensor],
        read: Callable[[], tuple[Tensor, Tensor]],
        *,
        prompt: bool = False,
    ) -> Tensor | None:
        """True (B, G, S) at the entries that stay; None: all.

        Args:
            layer: the layer.
            held: which tokens its entries are, the new ones last.
            new: entries a head that settle now.
            rows: softmax rows (B, H, R, S) of the tokens that settle now, those of a slice of them, over the entries.
            read: keys and values (B, G, S, d).
            prompt: whether the tokens are of a prompt, and not decoded.
        """


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
    policy: Policy | None = None
    """What evicts entries as they settle."""
    queries: list[Tensor] = field(default_factory=list)
    """Of each layer the queries (B, H, U, d) of the unsettled tokens, where a policy may ask for their attention."""
    parents: list[int] = field(default_factory=list)
    """The unsettled tokens: for each the one it follows, counted from the oldest; −1 is the last settled token."""
    trace: Trace = field(default_factory=Trace)
    """Where it is counted what happens to the cache."""

    def retain(self, index_K: Tensor) -> None:
        """Of the unsettled tokens keep those at these places, each the child of the one before, and settle."""
        self.next_position = self.next_position + len(index_K)
        self.next_index += len(index_K)
        self.parents.clear()
        for layer, store in enumerate(self.stores):
            store.retain(index_K)
            keep_BGS = self.policy and self._judge(self.policy, layer, index_K)
            store.settle()
            if keep_BGS is not None:
                self.evict(layer, keep_BGS)
        self.queries.clear()
        self.trace.note_settled(self.lengths)

    def held(self, layer: int) -> Held:
        """Which tokens the settled entries of a layer are."""
        return self.ledgers[layer].catch_up(self.next_index, self.next_position)

    def real(self, layer: int) -> Tensor | None:
        """False where an entry (B, G, S) is padding, G one where heads are alike; None: nowhere. Later ones are not."""
        return self.ledgers[layer].real_BGS if self.ledgers else None

    def note_query(self, layer: int, query_BHMd: Tensor) -> None:
        """New unsettled tokens asked a layer this; it is kept if a policy may want their attention."""
        if self.policy is None:
            return
        if layer == len(self.queries):
            self.queries.append(query_BHMd)
        else:
            self.queries[layer] = torch.cat([self.queries[layer], query_BHMd], dim=2)

    def evict(self, layer: int, keep_BGS: Tensor) -> None:
        """Of a layer's settled entries keep only those where it is True.

        Raises:
            Refusal: heads would keep different numbers of entries, in a store that holds equally many.
        """
        store = self.stores[layer]
        keep_BGS = keep_BGS & self.held(layer).visible_BGS
        if isinstance(store, RaggedStore):
            store.keep_where(keep_BGS)
        else:
            counts = keep_BGS.sum(dim=-1)
            if bool((counts != counts.flatten()[0]).any()):
                raise Refusal(
                    f"heads that hold equally many entries must keep equally many, got {counts.tolist()} in layer "
                    f"{layer}; let them differ from prefill on, or take the same number in every head"
                )
            store.keep(places_of(keep_BGS))
        self.ledgers[layer].keep_where(keep_BGS)

    @property
    def lengths(self) -> list[float]:
        """Entries a head that each layer holds; their mean where heads differ."""
        return [store.mean_length if isinstance(store, RaggedStore) else store.length for store in self.stores]

    def _judge(self, policy: Policy, layer: int, index_K: Tensor) -> Tensor | None:
        """What a policy keeps of a layer once these tokens are retained; codes are still what attention read."""
        query_BHKd = self.queries[layer][:, :, index_K]
        store, held = self.stores[layer], self.held(layer)

        def rows(index: slice = slice(None)) -> Tensor:
            key_BGSd, _ = store.read()
            probe = Probe(query_BHKd, key_BGSd, causal=True, on_read=self.trace.note_step_probe, real_BGS=held.real_BGS)
            return probe.rows(index, earlier=True)

        return policy(layer, held, len(index_K), rows, store.read)

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
        trace.note_cache([self.held(layer) for layer in range(len(self.stores))], self.lengths)
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
