"""Prefill: a prompt, or the next chunk of one, through the decoder, techniques at the extension points."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries, Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.decoder import LanguageModel
from lvlm_atlas.reference.lvlm.filling import Filling
from lvlm_atlas.reference.lvlm.points import Acts, Attention, CacheLayers, CacheTokens, LlmLayer
from lvlm_atlas.reference.ops.attention import attend, causal_mask, mask_of_heads
from lvlm_atlas.reference.ops.blocks import Blocks, block_sparse_attention
from lvlm_atlas.reference.refusal import Refusal


def prefill(model: LanguageModel, inputs: Sequence, acts: Acts, trace: Trace, cache: Cache | None = None) -> Prefill:
    """Run tokens through the decoder and fill a cache.

    Args:
        model: the decoder.
        inputs: a prompt, or what follows what the cache holds: the rest of a prompt, another turn, new frames. Its
            places in the text and its position ids go on from there (`Sequence.behind`).
        acts: what acts; techniques see these tokens and are told how many entries are cached before them.
        trace: where it is counted.
        cache: what is held already, its last tokens settled; None begins a new one.

    Raises:
        ValueError: drafted tokens of the cache are not settled, or places do not go on behind them.
    """
    if cache is None:
        cache = Cache([], [], next_position=torch.empty(0), trace=trace)
    elif cache.parents or int(inputs.index_BN.min()) < cache.next_index:
        raise _not_behind(inputs, cache)
    before_layer, compressors, dividers = (acts.at(each) for each in ("llm-layer", "cache-tokens", "cache-layers"))
    chooser, filling = acts.owner("attention"), Filling(acts, cache, int(inputs.index_BN[0, -1]) + 1)
    layers, retained, waiting = len(model.model.layers), [], []
    cache.policy = filling.eviction(layers)
    sequence = inputs
    for index, layer in enumerate(model.layers):
        cached = cache.stores[index].length if cache.stores[index:] else 0
        for technique in before_layer:
            sequence = technique.llm_layer(LlmLayer(index, layers, sequence, cached))
        trace.note_tokens(index, sequence)
        query, key, value = layer.project(sequence.hidden_BND, sequence.position_BN)
        blocks = chooser and chooser.choose_blocks(Attention(index, layers, sequence, query, key, value, cached))
        entries = _entries(key, value, sequence)
        every_key, every_value, real_BGS = _behind_cached(entries, cache, index) if cached else (key, value, None)
        out_BHNd, scores = _attend(query, every_key, every_value, real_BGS if cached else entries.real_BGS, blocks)
        trace.score_entries[index] += scores
        trace.cached_score_entries[index] += query[..., 0].numel() * (every_key.shape[2] - sequence.length)
        probe = Probe(query, every_key, causal=True, on_read=trace.note_probe, real_BGS=real_BGS)
        if acts.retain_attention:
            retained.append((probe, sequence.index_BN))

        for technique in compressors:
            entries = technique.compress_cache(CacheTokens(index, layers, entries, probe, cached))
        if dividers:
            waiting.append((entries, probe, cached, sequence.index_BN))
        else:
            filling.fill(index, layers, entries, probe, sequence.index_BN)
        sequence = replace(sequence, hidden_BND=layer.finish(sequence.hidden_BND, out_BHNd), attention=probe)
        sequence = sequence.add_deepstack(index)
    for technique in dividers:
        every, probes, before, _ = zip(*waiting, strict=True)
        divided = technique.compress_caches(CacheLayers(every, probes, before))
        waiting = [(entries, *rest) for entries, (_, *rest) in zip(divided, waiting, strict=True)]
    for index, (entries, probe, _, index_BN) in enumerate(waiting):
        filling.fill(index, layers, entries, probe, index_BN)
    last_BA = inputs.position_BN[:, -1].reshape(len(inputs.position_BN), -1)
    cache.next_position, cache.next_index = last_BA.amax(1) + 1, filling.next_index
    cache.count_prompt()
    logits_BC = model.logits(sequence.hidden_BND[:, -1:])[:, 0]
    return Prefill(inputs, sequence, cache, logits_BC, tuple(retained))


def _entries(key: Tensor, value: Tensor, sequence: Sequence) -> Entries:
    """What a layer would cache of all its tokens; every head the same."""
    per_head = (key.shape[0], key.shape[1], sequence.length)
    return Entries(
        key,
        value,
        sequence.vision_BN[:, None].expand(per_head),
        sequence.index_BN[:, None].expand(per_head),
        sequence.position_BN[:, None].expand(*per_head, *sequence.position_BN.shape[2:]),
        None if sequence.real_BN is None else sequence.real_BN[:, None],
    )


def _behind_cached(entries: Entries, cache: Cache, layer: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values (B, G, S, d) of a layer's cache and of new tokens behind them, and which are no padding."""
    key, value = cache.stores[layer].read()
    real_BGS = cache.held(layer).then(entries.held).real_BGS
    return torch.cat([key, entries.key_BGSd], dim=2), torch.cat([value, entries.value_BGSd], dim=2), real_BGS


def _attend(
    query: Tensor, key: Tensor, value: Tensor, real_BGS: Tensor | None, blocks: Blocks | None
) -> tuple[Tensor, int]:
    """Attention of prefill and how many scores it computed; causal, and dense unless blocks are chosen."""
    batch, heads, length = query.shape[:3]
    cached = key.shape[2] - length
    if blocks is not None:
        if cached and real_BGS is not None:
            raise Refusal("blocks of attention cannot be chosen behind a cache with padding; leave that technique out")
        return block_sparse_attention(query, key, value, blocks)
    scores = batch * heads * (length * cached + length * (length + 1) // 2)
    if real_BGS is None and not cached:
        return attend(query, key, value, causal=True), scores
    if real_BGS is None:
        mask = causal_mask(length, query.device, cached) if length > 1 else None
        return attend(query, key, value, mask), scores
    # Padding sees itself: a row that sees nothing would be NaN, and spread.
    itself = torch.eye(length, dtype=torch.bool, device=query.device)
    itself = functional.pad(itself, (cached, 0))
    real_BHS = mask_of_heads(real_BGS, heads)
    mask_BHNS = causal_mask(length, query.device, cached) & (real_BHS[:, :, None, :] | itself)
    return attend(query, key, value, mask_BHNS), scores


def _not_behind(inputs: Sequence, cache: Cache) -> ValueError:
    """The error of tokens that cannot follow a cache."""
    if cache.parents:
        return ValueError(f"{len(cache.parents)} tokens of the cache are not settled; call `Cache.retain` first")
    return ValueError(
        f"places in the text must go on from {cache.next_index} on, got {int(inputs.index_BN.min())}; use "
        f"`Sequence.behind(cache.next_index, cache.next_position)`"
    )
