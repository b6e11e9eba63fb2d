"""A step of decoding: new tokens, perhaps a tree of them, through the decoder and into the cache.

B batch, M new tokens, U unsettled tokens, S cached entries, C vocabulary, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.drafting.rounds import ancestors
from lvlm_atlas.reference.lvlm.decoder import LanguageModel
from lvlm_atlas.reference.ops.attention import mask_of_heads


def advance(model: LanguageModel, token_BM: Tensor, cache: Cache, parent_M: Tensor | None = None) -> Tensor:
    """Logits (B, M, C) after each of M new tokens; their entries are added to the cache, unsettled.

    Args:
        model: the decoder.
        token_BM: tokens that nobody has settled yet.
        cache: the cache; tokens of earlier steps that are still unsettled may be followed, too.
        parent_M: the unsettled token that each one follows, counted from the oldest; −1 is the last
            settled token. Absent means that each follows the one before.
    """
    return model.logits(hidden_states(model, token_BM, cache, parent_M)[-1])


def hidden_states(
    model: LanguageModel, token_BM: Tensor, cache: Cache, parent_M: Tensor | None = None, until: int | None = None
) -> tuple[Tensor, ...]:
    """What enters each layer (B, M, D), then what leaves the last, before the norm; entries as in `advance`.

    Args:
        model: the decoder.
        token_BM: as in `advance`.
        cache: as there. Tokens that wait in it after their first layers join the new ones where they stopped, and are
            run on: M counts them, and they come first.
        parent_M: as in `advance`.
        until: run only so many first layers of the new tokens alone, and let them wait in the cache; None runs all.

    Raises:
        ValueError: tokens already wait after another number of layers.
    """
    device = model.lm_head.weight.device
    new, waiting, stopped = token_BM.shape[1], cache.waiting, len(cache.begun) - 1
    if until is not None and waiting and stopped != until:
        raise ValueError(f"tokens wait after {stopped} layers, so no others can stop after {until}; run them on first")
    old = len(cache.parents)
    cache.parents += range(old - 1, old + new - 1) if parent_M is None else parent_M.tolist()
    seen_UU = ancestors(torch.tensor(cache.parents))[1:, 1:]
    depth_U = seen_UU.sum(1).to(device) - 1
    position_LBU = cache.next_position[..., None] + depth_U
    first = old
    """The first unsettled token that runs here."""
    states = [model.model.embed_tokens(token_BM.to(device))]
    for index, (own, store) in enumerate(zip(model.layers, cache.stores, strict=True)):
        if index == until:
            break
        layer = cache.exchanged.get(index, own)
        if waiting and index == stopped:
            first, states = old - waiting, _joined(cache.begun, states)
        query, *new_entries = layer.project(states[-1], None if cache.in_cache else position_LBU[index][:, first:])
        store.append(*new_entries)
        reading = cache.read(index, query)
        if until is None:
            cache.trace.note_read(index, reading.key_BGSd.shape[2], store.length)
        key, value, settled = reading.key_BGSd, reading.value_BGSd, reading.settled
        if cache.in_cache:
            settled_BGR, new_BGU = cache.in_cache.positions(index, reading, depth_U, position_LBU[index])
            query = cache.in_cache.rotate(query, new_BGU[:, :, first:])
            key = cache.in_cache.rotate(key, torch.cat([settled_BGR, new_BGU], dim=2))
        cache.note_new(index, states[-1], query)
        mask = _mask(seen_UU[first:], settled, reading.real_BGR, query.shape[1], device)
        bias_BHMR = store.logit_bias(query, key[:, :, :settled], reading.held)
        if reading.bias_BGR is not None:
            bias_BH1R = mask_of_heads(reading.bias_BGR, query.shape[1])[:, :, None].to(query.dtype)
            bias_BHMR = bias_BH1R if bias_BHMR is None else bias_BHMR + bias_BH1R
        if bias_BHMR is not None:
            mask = _biased(mask, bias_BHMR, key.shape[2])
        states.append(layer.finish(states[-1], store.attend(query, key, value, mask)))
    cache.count_fetched()
    if waiting and (until is not None or stopped == len(cache.stores)):
        states = _joined(cache.begun, states)
    if until is None:
        cache.begun = ()
        return tuple(states)
    cache.trace.draft_layer_runs += until
    cache.begun = tuple(states)
    return tuple(state_BMD[:, waiting:] for state_BMD in states)


def _joined(begun: tuple[Tensor, ...], states: list[Tensor]) -> list[Tensor]:
    """The states of tokens that waited, then those of new ones, layer by layer."""
    return [torch.cat(pair, dim=1) for pair in zip(begun, states, strict=True)]


def _mask(seen_MU: Tensor, settled: int, real_BGS: Tensor | None, heads: int, device: torch.device) -> Tensor | None:
    """(M, S) or (B, H, M, S), True where a new token may look; None where that is everywhere."""
    if real_BGS is None:
        return None if bool(seen_MU.all()) else functional.pad(seen_MU, (settled, 0), value=True).to(device)
    seen_MS = functional.pad(seen_MU, (settled, 0), value=True).to(device)
    real_BHS = mask_of_heads(real_BGS, heads)
    return seen_MS & functional.pad(real_BHS, (0, seen_MS.shape[1] - real_BHS.shape[2]), value=True)[:, :, None]


def _biased(mask: Tensor | None, bias_BHMR: Tensor, length: int) -> Tensor:
    """What to add to the logits (B, H, M, S): the bias at settled entries, −∞ where a token may not look."""
    bias_BHMS = functional.pad(bias_BHMR, (0, length - bias_BHMR.shape[3]))
    return bias_BHMS if mask is None else torch.where(mask, bias_BHMS, -torch.inf)
