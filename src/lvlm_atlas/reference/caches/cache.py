"""The key-value cache: a store a layer, and how far the text has come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.in_cache import InCache
from lvlm_atlas.reference.caches.ledger import Ledger
from lvlm_atlas.reference.caches.ragged import RaggedStore
from lvlm_atlas.reference.caches.reading import Reading
from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Held, Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.ops.places import places_of, take
from lvlm_atlas.reference.refusal import Refusal

Choose = Callable[[int, Store, int, Tensor, Sequence | None, Callable[[], Held], Callable[[int], None]], Tensor | None]
"""From a layer, its store, how many entries are settled, the queries of the new tokens (B, H, M, d), these, if they are
of a prompt, which tokens the settled entries are, and what counts scores, to the places (B, G, R) of the settled
entries to read; None: all."""


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
        entered: Mapping[int, Tensor] | None = None,
    ) -> Tensor | None:
        """True (B, G, S) at the entries that stay; None: all.

        Args:
            layer: the layer.
            held: which tokens its entries are, the new ones last.
            new: entries a head that settle now.
            rows: softmax rows (B, H, R, S) of the tokens that settle now, those of a slice of them, over the entries.
            read: keys and values (B, G, S, d).
            prompt: whether the tokens are of a prompt, and not decoded.
            entered: of decoded tokens that settle now, by place in the text, the state (B, D) that entered the layer.
        """


@dataclass
class Cache:
    """The stores of all layers, and how far the text has come."""

    stores: list[Store]
    ledgers: list[Ledger]
    """Which tokens the entries of each store are."""
    next_position: Tensor
    """Position id (L, B) of the next token in each layer: one more than the prompt's last, whatever was evicted. Layers
    differ where tokens were renumbered between them."""
    next_index: int = 0
    """Place of the next token in the text, the prompts and the answers; nothing that was evicted is missing there."""
    policy: Policy | None = None
    """What evicts entries as they settle."""
    queries: list[Tensor] = field(default_factory=list)
    """Of each layer the queries (B, H, U, d) of the unsettled tokens, where a policy may ask for their attention."""
    entered: list[Tensor] = field(default_factory=list)
    """Of each layer what entered it (B, U, D) of the unsettled tokens, where a policy may ask for that."""
    parents: list[int] = field(default_factory=list)
    """The unsettled tokens: for each the one it follows, counted from the oldest; −1 is the last settled token."""
    begun: tuple[Tensor, ...] = ()
    """Of the last unsettled tokens what entered each of the first layers (B, M, D), and what left the last that they
    have run through; empty where all have run through all layers."""
    trace: Trace = field(default_factory=Trace)
    """Where it is counted what happens to the cache."""
    in_cache: InCache | None = None
    """Where keys are held as they are before rotary: rotates them when they are read. None: they are held rotated."""
    choose: Choose | None = None
    """What says which settled entries a pass reads; None: it reads all."""
    fetched_byte: int = 0
    """Bytes fetched from the host so far."""
    biases: dict[int, Tensor] = field(default_factory=dict)
    """Of layers some of whose keys have a bias: it (B, T), by place in the text; those beyond have none."""

    exchanged: dict[int, Any] = field(default_factory=dict)
    """Decoder layers whose projections a technique exchanged, by index."""

    @property
    def waiting(self) -> int:
        """Unsettled tokens that have not run through all layers."""
        return self.begun[0].shape[1] if self.begun else 0

    def retain(self, index_K: Tensor) -> None:
        """Of the unsettled tokens keep those at these places, each the child of the one before, and settle."""
        self.next_position = self.next_position + len(index_K)
        self.next_index += len(index_K)
        self.parents.clear()
        for layer, store in enumerate(self.stores):
            store.retain(index_K)
            keep_BGS = None if self.policy is None else self._judge(self.policy, layer, index_K)
            store.settle()
            if keep_BGS is not None:
                self.evict(layer, keep_BGS)
        self.queries.clear()
        self.entered.clear()
        self.trace.note_settled(self.lengths)

    def behind(self, sequence: Sequence) -> Sequence:
        """Tokens as they follow what is held, at the first layer."""
        return sequence.behind(self.next_index, self.next_position[0])

    def held(self, layer: int) -> Held:
        """Which tokens the settled entries of a layer are."""
        ledger = self.ledgers[layer]
        if ledger.next_index < self.next_index:
            ledger.catch_up(self.next_index, self.next_position[layer])
        return ledger.held

    def real(self, layer: int) -> Tensor | None:
        """False where an entry (B, G, S) is padding, G one where heads are alike; None: nowhere. Later ones are not."""
        return self.ledgers[layer].real_BGS if self.ledgers else None

    def note_bias(self, layer: int, sequence: Sequence) -> None:
        """New tokens of a prompt enter a layer; the biases of their keys, if they have any, are kept for it."""
        if sequence.bias_BN is None:
            return
        old_BT = self.biases.get(layer, sequence.bias_BN[:, :0])
        new = sequence.last_index + 1 - old_BT.shape[1]
        bias_BT = functional.pad(old_BT, (0, new))
        self.biases[layer] = bias_BT.scatter(1, sequence.index_BN, sequence.bias_BN)

    def bias(self, layer: int, held: Callable[[], Held]) -> Tensor | None:
        """What is added to the logits of each of these settled entries of a layer (B, G, S); None: nothing to any."""
        bias_BT = self.biases.get(layer)
        if bias_BT is None:
            return None
        index_BGS = held().index_BGS
        known = bias_BT.shape[1]
        bias_BGS = take(bias_BT[:, None].expand(-1, index_BGS.shape[1], -1), index_BGS.clamp(0, known - 1))
        return bias_BGS.masked_fill(index_BGS >= known, 0)

    def note_new(self, layer: int, state_BMD: Tensor, query_BHMd: Tensor) -> None:
        """New unsettled tokens entered a layer so and asked it this; kept if a policy may want it."""
        if self.policy is None:
            return
        if layer == len(self.queries):
            self.queries.append(query_BHMd)
            self.entered.append(state_BMD)
        else:
            self.queries[layer] = torch.cat([self.queries[layer], query_BHMd], dim=2)
            self.entered[layer] = torch.cat([self.entered[layer], state_BMD], dim=1)

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
            key_BGSd, value_BGSd = store.read()
            if self.in_cache:
                if self.choose:
                    raise Refusal("attention of a step to entries that it did not read has no positions in the cache")
                reading = Reading(key_BGSd, value_BGSd, key_BGSd.shape[2], lambda: held, held.real_BGS)
                next_B1 = self.next_position[layer, :, None]
                place_BGS, _ = self.in_cache.positions(layer, reading, index_K[:1], next_B1)
                key_BGSd = self.in_cache.rotate(key_BGSd, place_BGS)
            probe = Probe(
                query_BHKd,
                key_BGSd,
                causal=True,
                on_read=self.trace.note_step_probe,
                bias_BN=self.bias(layer, lambda: held),
                real_BGS=held.real_BGS,
            )
            return probe.rows(index, earlier=True)

        state_BKD, first = self.entered[layer][:, index_K], self.next_index - len(index_K)
        entered = {first + number: state_BKD[:, number] for number in range(len(index_K))}
        return policy(layer, held, len(index_K), rows, store.read, entered=entered)

    def read(self, layer: int, query_BHMd: Tensor, sequence: Sequence | None = None) -> Reading:
        """What new tokens with these queries attend to; `sequence` are these tokens, if they are of a prompt."""
        store = self.stores[layer]
        settled, real_BGR = store.length - len(self.parents), self.real(layer)
        held = partial(self.held, layer)
        context = (store, settled, query_BHMd, sequence, held, self.trace.note_step_probe)
        index_BGR = self.choose(layer, *context) if self.choose else None
        if index_BGR is None:
            # A store may read less than it holds, of its own accord; what is unsettled stands last.
            key, value = store.read()
            read, bias_BGR = key.shape[2] - len(self.parents), self.bias(layer, held)
            if bias_BGR is not None and bias_BGR.shape[2] != read:
                raise Refusal(
                    f"keys of layer {layer} have biases, and its store reads {read} entries of {bias_BGR.shape[2]} of "
                    f"its own accord; leave that technique out"
                )
            return Reading(key, value, read, held, real_BGR, bias_BGR)
        if real_BGR is not None:
            real_BGS = functional.pad(real_BGR, (0, settled - real_BGR.shape[2]), value=True)
            real_BGR = take(real_BGS.expand(-1, index_BGR.shape[1], -1), index_BGR)
        pair = store.read_at(index_BGR, settled)
        chosen = lambda: self.held(layer).keep(index_BGR)  # noqa: E731
        return Reading(*pair, index_BGR.shape[2], chosen, real_BGR, self.bias(layer, chosen))

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
        trace.note_cache([self.held(layer) for layer in range(len(self.stores))], self.lengths)
        trace.kv_byte = self.layer_byte()
        trace.kv_state = [store.state_elements for store in self.stores]
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
