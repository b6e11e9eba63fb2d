"""Attention of a prompt in one layer: its own tokens, and what the cache holds before them.

B batch, H query heads, G key-value heads, N tokens, S keys (what is read of the cache, then the tokens), d head
dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries, Sequence
from lvlm_atlas.reference.lvlm.ahead import NextLayer, with_silent
from lvlm_atlas.reference.lvlm.contexts import Attention
from lvlm_atlas.reference.ops.attention import Rotary, attend, causal_mask, joined_bias, mask_of_heads, with_bias
from lvlm_atlas.reference.ops.blocks import Blocks, Pairs, Replacement, block_sparse_attention, pair_attention
from lvlm_atlas.reference.ops.window import Window, window_attention
from lvlm_atlas.reference.refusal import Refusal


@dataclass(frozen=True)
class Attended:
    """What attention of a layer gives, and what it leaves behind."""

    out_BHNd: Tensor
    scores: int
    """Scores that were computed, all heads."""
    cached_scores: int
    """Those of them with what the cache holds."""
    entries: Entries
    """What the layer would cache of the tokens."""
    probe: Probe


@dataclass(frozen=True)
class _Behind:
    """The tokens behind what is read of the cache, all rotated."""

    query_BHNd: Tensor
    """Of the tokens that ask: the last ones, which see all before them."""
    key_BGSd: Tensor
    value_BGSd: Tensor
    position_BGN: Tensor
    """Position ids of the queries; G is one where heads are alike."""
    position_BGS: Tensor | None
    """Position ids of the keys; None where the cache holds rotated ones."""
    real_BGS: Tensor | None = None
    """False where a key is padding."""
    bias_BGS: Tensor | None = None
    """Added to the logits of each key; None: nothing."""


def attend_prompt(next_layer: NextLayer, layers: int, sequence: Sequence, chooser: Any | None) -> Attended:
    """Attention of the tokens of a prompt in a layer, behind what the cache holds.

    Args:
        next_layer: the layer, and the cache that the tokens follow.
        layers: how many there are.
        sequence: the tokens that enter it.
        chooser: what says where they attend to, if a technique does.
    """
    index, cache, layer = next_layer.index, next_layer.cache, next_layer.layer
    cached = next_layer.cached
    query, key, value = next_layer.project(sequence)
    entries = _entries(key, value, sequence)
    if cached:
        behind = _behind_cached(index, query, entries, cache, sequence)
    else:
        if cache.in_cache:
            query, key = (layer.rotary(x, sequence.position_BN) for x in (query, key))
        position_BGN = sequence.position_BN[:, None]
        bias_BGS = None if sequence.bias_BN is None else sequence.bias_BN[:, None]
        behind = _Behind(query, key, value, position_BGN, position_BGN, entries.real_BGS, bias_BGS)
    chosen = None
    probe = Probe(
        with_silent(behind.query_BHNd, sequence.silent),
        behind.key_BGSd,
        causal=True,
        on_read=next_layer.on_read,
        bias_BN=behind.bias_BGS,
        real_BGS=behind.real_BGS,
    )
    if chooser:
        own_key = behind.key_BGSd[:, :, -sequence.length :]
        context = Attention(index, layers, sequence, behind.query_BHNd, own_key, value, cached, probe)
        chosen = chooser.choose_blocks(context)
    if chosen is not None and sequence.silent:
        raise Refusal("where attention goes cannot be chosen among tokens that ask nothing; leave one technique out")
    out_BHNd, scores = _attend(behind, chosen, layer.rotary)
    seen = behind.key_BGSd.shape[2] - sequence.length
    cached_scores = query[..., 0].numel() * seen
    if isinstance(chosen, Window) and seen:
        own_N = torch.arange(1, sequence.length + 1).clamp(max=chosen.size)
        cached_scores = scores - query.shape[0] * query.shape[1] * int(own_N.sum())
    return Attended(out_BHNd, scores, cached_scores, entries, probe)


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


def _behind_cached(index: int, query: Tensor, entries: Entries, cache: Cache, sequence: Sequence) -> _Behind:
    """New tokens behind what they read of a cache."""
    reading = cache.read(index, query, sequence)
    key = torch.cat([reading.key_BGSd, entries.key_BGSd], dim=2)
    value = torch.cat([reading.value_BGSd, entries.value_BGSd], dim=2)
    new_BGN, all_BGS = sequence.position_BN[:, None], None
    if cache.in_cache:
        offset_N = torch.arange(sequence.length, device=key.device)
        positions = cache.in_cache.positions(index, reading, offset_N, sequence.position_BN)
        new_BGN, all_BGS = positions[1], torch.cat(positions, dim=2)
        query, key = cache.in_cache.rotate(query, new_BGN), cache.in_cache.rotate(key, all_BGS)
    real_BGS = None
    if reading.real_BGR is not None or entries.real_BGS is not None:
        real_BGS = reading.held().then(entries.held).real_BGS
    bias_BGS = joined_bias(reading.bias_BGR, sequence.bias_BN, reading.settled, sequence.length)
    return _Behind(query, key, value, new_BGN, all_BGS, real_BGS, bias_BGS)


def _attend(
    behind: _Behind, chosen: Blocks | Pairs | Window | Replacement | None, rotary: Rotary
) -> tuple[Tensor, int]:
    """Attention and how many scores it computed; causal, and dense unless a technique chooses."""
    query, key, value, real_BGS = behind.query_BHNd, behind.key_BGSd, behind.value_BGSd, behind.real_BGS
    batch, heads, length = query.shape[:3]
    cached = key.shape[2] - length
    if chosen is not None and behind.bias_BGS is not None:
        raise Refusal("neither blocks nor a window of attention add a bias to each key; leave one technique out")
    if isinstance(chosen, Window):
        return _in_window(behind, chosen, rotary)
    if isinstance(chosen, Pairs):
        return pair_attention(query, key, value, chosen, real_BGS)
    if isinstance(chosen, Replacement):
        if cached or real_BGS is not None:
            raise Refusal(
                "what takes the place of attention knows no cached entries and no padding; ask in one round, or leave "
                "that technique out"
            )
        return chosen.out_BHNd, chosen.scores
    if chosen is not None:
        if cached and real_BGS is not None:
            raise Refusal("blocks of attention cannot be chosen behind a cache with padding; leave that technique out")
        return block_sparse_attention(query, key, value, chosen)
    scores = batch * heads * (length * cached + length * (length + 1) // 2)
    if real_BGS is None and behind.bias_BGS is None and not cached:
        return attend(query, key, value, causal=True), scores
    mask = causal_mask(length, query.device, cached) if length > 1 else None
    if real_BGS is not None:
        # Padding sees itself: a row that sees nothing would be NaN, and spread.
        itself = torch.eye(length, dtype=torch.bool, device=query.device)
        itself = functional.pad(itself, (cached, 0))
        real_BHS = mask_of_heads(real_BGS, heads)
        mask = causal_mask(length, query.device, cached) & (real_BHS[:, :, None, :] | itself)
    if behind.bias_BGS is not None:
        mask = with_bias(mask, behind.bias_BGS, heads, query.dtype)
    return attend(query, key, value, mask), scores


def _in_window(behind: _Behind, window: Window, rotary: Rotary) -> tuple[Tensor, int]:
    if behind.real_BGS is not None:
        raise Refusal("a window of attention cannot be chosen where there is padding; leave that technique out")
    if window.distance is not None and behind.position_BGS is None:
        raise Refusal(
            "a window of attention behind a cache needs its keys unrotated to see the first tokens at a fixed "
            "distance; let the technique need `unrotated-keys`"
        )
    position_BS = None if behind.position_BGS is None else behind.position_BGS[:, 0]
    tensors = (behind.query_BHNd, behind.key_BGSd, behind.value_BGSd)
    return window_attention(*tensors, behind.position_BGN[:, 0], position_BS, window, rotary)
