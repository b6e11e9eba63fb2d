"""Prefill: a prompt, or the next chunk of one, through the decoder, techniques at the extension points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.in_cache import InCache
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.ahead import NextLayer
from lvlm_atlas.reference.lvlm.attending import attend_prompt
from lvlm_atlas.reference.lvlm.contexts import CacheLayers, CacheTokens, LlmLayer, PrefillChunks, Projections
from lvlm_atlas.reference.lvlm.decoder import Exchanged, LanguageModel, Layer
from lvlm_atlas.reference.lvlm.filling import Filling
from lvlm_atlas.reference.lvlm.technique import Acts


def prefill(model: LanguageModel, inputs: Sequence, acts: Acts, trace: Trace, cache: Cache | None = None) -> Prefill:
    """Run tokens through the decoder and fill a cache.

    Args:
        model: the decoder.
        inputs: a prompt, or what follows what the cache holds: the rest of a prompt, another turn, new frames. Its
            places in the text and its position ids go on from there (`Cache.behind`).
        acts: what acts; techniques see these tokens and are told how many entries are cached before them.
        trace: where it is counted.
        cache: what is held already, its last tokens settled; None begins a new one.

    Raises:
        ValueError: drafted tokens of the cache are not settled, or places do not go on behind them.
    """
    if cache is None:
        cache = Cache([], [], next_position=torch.empty(0), trace=trace)
    elif cache.parents or inputs.first_index < cache.next_index:
        raise _not_behind(inputs, cache)
    before_layer, compressors, dividers = (acts.at(each) for each in ("llm-layer", "cache-tokens", "cache-layers"))
    chooser, filling = acts.owner("attention"), Filling(acts, cache, inputs.last_index + 1)
    layers, retained, entered, waiting, next_positions = len(model.model.layers), [], [], [], []
    follows = cache.next_position
    cache.policy, cache.choose = filling.eviction(layers), filling.choice(layers)
    cache.in_cache = cache.in_cache or (InCache(next(model.layers).rotary) if acts.unrotated else None)
    silent = inputs.silent if acts.owner("projections") else 0  # a draft of its own reads all tokens as any others
    sequence = inputs = replace(inputs, next_B=inputs.next_position, silent=silent)
    for index, layer in enumerate(_layers(model, acts, cache)):
        cached = cache.stores[index].length if cache.stores[index:] else 0
        if index and len(follows):  # what is held may have been renumbered between the two layers
            sequence = sequence.behind(0, follows[index] - follows[index - 1])
        next_layer = NextLayer(layer, index, cache, trace.note_probe)
        for technique in before_layer:
            sequence = technique.llm_layer(LlmLayer(index, layers, sequence, cached, next_layer.probe))
        trace.note_tokens(index, sequence)
        cache.note_bias(index, sequence)
        next_positions.append(sequence.next_position)
        entered += [(sequence.hidden_BND, sequence.index_BN)] * acts.retain_states
        attended = attend_prompt(next_layer, layers, sequence, chooser)
        trace.score_entries[index] += attended.scores
        trace.cached_score_entries[index] += attended.cached_scores
        entries, probe = attended.entries, attended.probe
        if acts.retain_attention:
            retained.append((probe, sequence.index_BN))

        for technique in compressors:
            entries = technique.compress_cache(CacheTokens(index, layers, entries, probe, cached))
        if dividers:
            waiting.append((entries, probe, cached, sequence.index_BN))
        else:
            filling.fill(index, layers, entries, probe, sequence.index_BN)
        out_BTD = layer.finish(sequence.asking_BTD, attended.out_BHNd)
        sequence = replace(sequence.after(out_BTD), attention=probe).add_deepstack(index)
    for technique in dividers:
        every, probes, before, _ = zip(*waiting, strict=True)
        divided = technique.compress_caches(CacheLayers(every, probes, before))
        waiting = [(entries, *rest) for entries, (_, *rest) in zip(divided, waiting, strict=True)]
    for index, (entries, probe, _, index_BN) in enumerate(waiting):
        filling.fill(index, layers, entries, probe, index_BN)
    cache.next_position, cache.next_index = torch.stack(next_positions), filling.next_index
    if cache.in_cache:
        cache.in_cache.know(inputs.position_BN if inputs.origin_BN is None else inputs.origin_BN, cache.next_position)
    cache.count_prompt()
    logits_BC = model.logits(sequence.hidden_BND[:, -1:])[:, 0]
    return Prefill(inputs, sequence, cache, logits_BC, tuple(retained), tuple(entered))


def prefill_in_chunks(
    model: LanguageModel, inputs: Sequence, acts: Acts, trace: Trace, cache: Cache | None = None
) -> Prefill:
    """`prefill`, chunk by chunk where a technique says so; the attention is that of the last chunk."""
    divider = acts.owner("prefill-chunks")
    if divider is None:
        return prefill(model, inputs, acts, trace, cache)
    lengths, outputs, entered = divider.split_prompt(PrefillChunks(inputs)).tolist(), [], []
    for place_K in torch.split(torch.arange(inputs.length, device=inputs.hidden_BND.device), lengths):
        filled = prefill(model, inputs.keep(place_K.expand(len(inputs.hidden_BND), -1)), acts, trace, cache)
        cache = filled.cache
        outputs.append(filled.outputs)
        entered.append(filled.states)
    states = tuple(
        (torch.cat([hidden for hidden, _ in layer], dim=1), torch.cat([index for _, index in layer], dim=1))
        for layer in zip(*entered, strict=True)
    )
    return replace(filled, inputs=inputs, outputs=_joined(outputs), states=states)


def _layers(model: LanguageModel, acts: Acts, cache: Cache) -> Iterator[Layer | Exchanged]:
    """The layers, with other projections where a technique exchanges them, which steps of decoding then find, too."""
    owner, layers = acts.owner("projections"), len(model.model.layers)
    for index, layer in enumerate(model.layers):
        other = owner.exchange_projections(Projections(index, layers, layer)) if owner else None
        if other is None:
            yield layer
        else:
            cache.exchanged[index] = Exchanged(layer, other)
            yield cache.exchanged[index]


def _joined(chunks: list[Sequence]) -> Sequence:
    """What left the last layer, of all chunks; where it stands on the grid and its attention are forgotten."""
    if len(chunks) == 1:
        return chunks[0]
    names = ("hidden_BND", "position_BN", "vision_BN", "index_BN")
    tokens: dict[str, Any] = {name: torch.cat([getattr(chunk, name) for chunk in chunks], dim=1) for name in names}
    masks = [chunk.real_BN for chunk in chunks if chunk.real_BN is not None]
    real_BN = torch.cat(masks, dim=1) if len(masks) == len(chunks) else None
    return replace(chunks[-1], **tokens, real_BN=real_BN, attention=None, place_BN3=None)


def _not_behind(inputs: Sequence, cache: Cache) -> ValueError:
    """The error of tokens that cannot follow a cache."""
    if cache.parents:
        return ValueError(f"{len(cache.parents)} tokens of the cache are not settled; call `Cache.retain` first")
    return ValueError(
        f"places in the text must go on from {cache.next_index} on, got {inputs.first_index}; use `Cache.behind`"
    )
