"""Prefill: the prompt through the decoder, techniques at the extension points, the cache filled."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.attention import Probe, attend, causal_mask
from lvlm_atlas.reference.lvlm.cache import Cache, PlainStore, Store
from lvlm_atlas.reference.lvlm.decoder import LanguageModel
from lvlm_atlas.reference.lvlm.points import Attend, BeginDecoding, CompressCache, LlmLayer, NewStore, Stack
from lvlm_atlas.reference.lvlm.states import Entries, Sequence
from lvlm_atlas.reference.lvlm.trace import Trace


@dataclass(frozen=True)
class Prefill:
    """What prefill leaves behind."""

    inputs: Sequence
    """The prompt as it entered the first decoder layer."""
    outputs: Sequence
    """What left the last, before the final norm."""
    cache: Cache
    logits_BC: Tensor
    """Logits after the last token of each row."""
    attention: tuple[tuple[Probe, Tensor], ...]
    """Each layer's attention and the prompt places (B, N) of its tokens; empty unless retained."""

    @property
    def logits_C(self) -> Tensor:  # noqa: N802 - names carry shapes
        """Logits after the last token of a batch of one."""
        return self.logits_BC[0]


def prefill(model: LanguageModel, inputs: Sequence, stack: Stack, trace: Trace) -> Prefill:
    """Run the prompt through the decoder and fill the cache."""
    store_owner, loop = stack.owner(NewStore), stack.owner(BeginDecoding)
    layers, retained = len(model.model.layers), []
    last_BA = inputs.position_BN[:, -1].reshape(len(inputs.position_BN), -1)
    cache = Cache([], [], next_position=last_BA.amax(1) + 1, real_BN=inputs.real_BN)
    sequence = inputs
    for index, layer in enumerate(model.layers):
        for technique in stack.at(LlmLayer):
            sequence = technique.llm_layer(index, layers, sequence)
        trace.note_tokens(sequence)
        query, key, value = layer.project(sequence.hidden_BND, sequence.position_BN)
        out_BHNd, scores = _attend(index, query, key, value, sequence.real_BN, stack.owner(Attend))
        trace.score_entries.append(scores)
        probe = Probe(query, key, causal=True, on_read=trace.note_probe)
        if loop and loop.retain_attention:
            retained.append((probe, sequence.index_BN))

        per_head = (key.shape[0], key.shape[1], sequence.length)
        entries = Entries(
            key, value, sequence.vision_BN[:, None].expand(per_head), sequence.index_BN[:, None].expand(per_head)
        )
        for compressor in stack.at(CompressCache):
            entries = compressor.compress_cache(index, layers, entries, probe)
        store: Store = store_owner.new_store(index) if store_owner else PlainStore()
        store.append(entries.key_BGSd, entries.value_BGSd)
        store.settle()
        cache.stores.append(store)
        cache.prompt.append(entries)
        trace.note_cache(entries, store)
        sequence = replace(sequence, hidden_BND=layer.finish(sequence.hidden_BND, out_BHNd), attention=probe)
    logits_BC = model.logits(sequence.hidden_BND[:, -1:])[:, 0]
    return Prefill(inputs, sequence, cache, logits_BC, tuple(retained))


def _attend(
    index: int, query: Tensor, key: Tensor, value: Tensor, real_BN: Tensor | None, owner: Attend | None
) -> tuple[Tensor, int]:
    """Attention of prefill and how many scores it computed; causal and dense unless a technique owns it."""
    if owner:
        return owner.attend(index, query, key, value)
    batch, heads, length = query.shape[:3]
    scores = batch * heads * length * (length + 1) // 2
    if real_BN is None:
        return attend(query, key, value, causal=True), scores
    # Padding sees itself: a row that sees nothing would be NaN, and spread.
    itself = torch.eye(length, dtype=torch.bool, device=query.device)
    mask_B1NN = causal_mask(length, query.device) & (real_BN[:, None, None, :] | itself)
    return attend(query, key, value, mask_B1NN), scores
