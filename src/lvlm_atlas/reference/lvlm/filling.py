"""Filling the cache in prefill: the entries of a layer into its store, and what policies evict of them at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.cache import Cache, Choose, Policy
from lvlm_atlas.reference.caches.ledger import Ledger
from lvlm_atlas.reference.caches.ragged import RaggedStore
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheBits, CacheRead
from lvlm_atlas.reference.lvlm.eviction import Eviction, columns
from lvlm_atlas.reference.lvlm.technique import Acts
from lvlm_atlas.reference.refusal import Refusal


@dataclass(frozen=True)
class Filling:
    """The end of a prefill, layer by layer.

    Args:
        acts: what acts in the run.
        cache: what is filled.
        next_index: place in the text of the token that follows.
    """

    acts: Acts
    cache: Cache
    next_index: int

    def eviction(self, layers: int) -> Eviction | None:
        """The policies of the run, if there are any."""
        policies = self.acts.at("cache-step")
        return Eviction(policies, layers) if policies else None

    def choice(self, layers: int) -> Choose | None:
        """What says which settled entries a pass reads, for a model of so many layers; None: it reads all."""
        reader = self.acts.owner("cache-read")
        if reader is None:
            return None
        return lambda layer, *context: reader.choose_entries(CacheRead(layer, layers, *context))

    def fill(self, layer: int, layers: int, entries: Entries, probe: Probe, index_BN: Tensor) -> None:
        """Put the entries of a layer into its store, a new one or behind those that it holds.

        Args:
            layer: the layer.
            layers: how many there are.
            entries: what it caches of the tokens read now.
            probe: its attention.
            index_BN: place in the text of each token read now.
        """
        cache = self.cache
        if not cache.stores[layer:]:
            cache.stores.append(self._new_store(layer, layers, entries))
            cache.ledgers.append(Ledger(entries.held, self.next_index))
        else:
            if entries.uneven:
                raise Refusal(
                    f"heads of layer {layer} would cache different numbers of entries behind those they hold; let them "
                    f"differ in the first prompt alone"
                )
            cache.held(layer)
            cache.ledgers[layer].add(entries.held, self.next_index)
            cache.stores[layer].announce(entries.vision_BGS)
            cache.stores[layer].append(entries.key_BGSd, entries.value_BGSd)
            cache.stores[layer].settle()
        if cache.policy is not None:
            self._evict(cache.policy, layer, entries, probe, index_BN)

    def _new_store(self, layer: int, layers: int, entries: Entries) -> Store:
        holder = self.acts.owner("cache-bits")

        def new_store(of: Entries) -> Store:
            store: Store = holder.new_store(CacheBits(layer, layers, of)) if holder else PlainStore()
            return store

        if entries.uneven:
            return RaggedStore(new_store, entries)
        store = new_store(entries)
        store.append(entries.key_BGSd, entries.value_BGSd)
        store.settle()
        return store

    def _evict(self, policy: Policy, layer: int, entries: Entries, probe: Probe, index_BN: Tensor) -> None:
        """Let policies evict, who see the attention of the tokens read now over all that the layer holds."""
        cached, new = probe.cached, entries.key_BGSd.shape[2]

        def rows(index: slice) -> Tensor:
            weight_BHRS = probe.rows(index, earlier=True)
            if new == index_BN.shape[1]:
                return weight_BHRS
            kept = columns(weight_BHRS[..., cached:], places_among(index_BN, entries.index_BGS))
            return torch.cat([weight_BHRS[..., :cached], kept], dim=-1)

        cache = self.cache
        keep_BGS = policy(layer, cache.held(layer), new, rows, cache.stores[layer].read, prompt=True)
        if keep_BGS is not None:
            cache.evict(layer, keep_BGS)


def places_among(index_BN: Tensor, wanted_BGK: Tensor) -> Tensor:
    """Where each wanted number stands in its row of numbers, all of them different: (B, G, K)."""
    ascending_BN, order_BN = index_BN.sort(dim=-1)
    rank_BK = torch.searchsorted(ascending_BN, wanted_BGK.flatten(1).contiguous())
    return order_BN.gather(1, rank_BK).reshape(wanted_BGK.shape)
