"""Prefill: the prompt through the decoder, techniques at the extension points, the cache filled."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries, Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.ahead import NextLayer
from lvlm_atlas.reference.lvlm.decoder import LanguageModel
from lvlm_atlas.reference.lvlm.points import Acts, Attention, CacheBits, CacheTokens, LlmLayer
from lvlm_atlas.reference.ops.attention import attend, causal_mask
from lvlm_atlas.reference.ops.blocks import Blocks, block_sparse_attention


def prefill(model: LanguageModel, inputs: Sequence, acts: Acts, trace: Trace) -> Prefill:
    """Run the prompt through the decoder and fill the cache."""
    before_layer, compressors = acts.at("llm-layer"), acts.at("cache-tokens")
    chooser, holder = acts.owner("attention"), acts.owner("cache-bits")
    layers, retained = len(model.model.layers), []
    sequence = inputs = replace(inputs, next_B=inputs.next_position)
    cache = Cache([], [], next_position=inputs.next_position[None], real_BN=inputs.real_BN, trace=trace)
    next_positions = []
    for index, layer in enumerate(model.layers):
        next_layer = NextLayer(layer, trace.note_probe)
        for technique in before_layer:
            sequence = technique.llm_layer(LlmLayer(index, layers, sequence, next_layer.probe))
        trace.note_tokens(sequence)
        next_positions.append(sequence.next_position)
        query, key, value = next_layer.project(sequence)
        blocks = chooser and chooser.choose_blocks(Attention(index, layers, sequence, query, key, value))
        out_BHNd, scores = _attend(query, key, value, sequence.real_BN, blocks)
        trace.score_entries.append(scores)
        probe = Probe(query, key, causal=True, on_read=trace.note_probe, real_BN=sequence.real_BN)
        if acts.retain_attention:
            retained.append((probe, sequence.index_BN))

        per_head = (key.shape[0], key.shape[1], sequence.length)
        entries = Entries(
            key, value, sequence.vision_BN[:, None].expand(per_head), sequence.index_BN[:, None].expand(per_head)
        )
        for technique in compressors:
            entries = technique.compress_cache(CacheTokens(index, layers, entries, probe))
        store: Store = holder.new_store(CacheBits(index, layers, entries)) if holder else PlainStore()
        store.append(entries.key_BGSd, entries.value_BGSd)
        store.settle()
        cache.stores.append(store)
        cache.prompt.append(entries)
        trace.note_cache(entries, store.length)
        sequence = replace(sequence, hidden_BND=layer.finish(sequence.hidden_BND, out_BHNd), attention=probe)
        sequence = sequence.add_deepstack(index)
    cache.next_position = torch.stack(next_positions)
    cache.count_prompt()
    logits_BC = model.logits(sequence.hidden_BND[:, -1:])[:, 0]
    return Prefill(inputs, sequence, cache, logits_BC, tuple(retained))


def _attend(
    query: Tensor, key: Tensor, value: Tensor, real_BN: Tensor | None, blocks: Blocks | None
) -> tuple[Tensor, int]:
    """Attention of prefill and how many scores it computed; causal, and dense unless blocks are chosen."""
    if blocks is not None:
        return block_sparse_attention(query, key, value, blocks)
    batch, heads, length = query.shape[:3]
    scores = batch * heads * length * (length + 1) // 2
    if real_BN is None:
        return attend(query, key, value, causal=True), scores
    # Padding sees itself: a row that sees nothing would be NaN, and spread.
    itself = torch.eye(length, dtype=torch.bool, device=query.device)
    mask_B1NN = causal_mask(length, query.device) & (real_BN[:, None, None, :] | itself)
    return attend(query, key, value, mask_B1NN), scores
