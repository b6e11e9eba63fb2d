"""A step of decoding: new tokens, perhaps a tree of them, through the decoder and into the cache.

B batch, M new tokens, U unsettled tokens, S cached entries, C vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.drafting.rounds import ancestors
from lvlm_atlas.reference.lvlm.decoder import LanguageModel
from lvlm_atlas.reference.ops.attention import attend, mask_of_heads


def advance(model: LanguageModel, token_BM: Tensor, cache: Cache, parent_M: Tensor | None = None) -> Tensor:
    """Logits (B, M, C) after each of M new tokens; their entries are added to the cache, unsettled.

    Args:
        model: the decoder.
        token_BM: tokens that nobody has settled yet.
        cache: the cache; tokens of earlier steps that are still unsettled may be followed, too.
        parent_M: the unsettled token that each one follows, counted from the oldest; −1 is the last
            settled token. Absent means that each follows the one before.
    """
    device = model.lm_head.weight.device
    old, new = len(cache.parents), token_BM.shape[1]
    cache.parents += range(old - 1, old + new - 1) if parent_M is None else parent_M.tolist()
    seen_MU = ancestors(torch.tensor(cache.parents))[1 + old :, 1:]
    depth_M = seen_MU.sum(1).to(device) - 1
    position_BM = cache.next_position[:, None] + depth_M
    hidden_BMD = model.model.embed_tokens(token_BM.to(device))
    for index, (layer, store) in enumerate(zip(model.layers, cache.stores, strict=True)):
        query, *new_entries = layer.project(hidden_BMD, position_BM)
        store.append(*new_entries)
        cache.note_query(index, query)
        key, value = store.read()
        cache.trace.note_read(index, key.shape[2], store.length)
        settled = key.shape[2] - old - new
        out_BHMd = attend(query, key, value, _mask(seen_MU, settled, cache.real(index), query.shape[1], device))
        hidden_BMD = layer.finish(hidden_BMD, out_BHMd)
    return model.logits(hidden_BMD)


def _mask(seen_MU: Tensor, settled: int, real_BGS: Tensor | None, heads: int, device: torch.device) -> Tensor | None:
    """(M, S) or (B, H, M, S), True where a new token may look; None where that is everywhere."""
    if real_BGS is None:
        return None if bool(seen_MU.all()) else functional.pad(seen_MU, (settled, 0), value=True).to(device)
    seen_MS = functional.pad(seen_MU, (settled, 0), value=True).to(device)
    real_BHS = mask_of_heads(real_BGS, heads)
    return seen_MS & functional.pad(real_BHS, (0, seen_MS.shape[1] - real_BHS.shape[2]), value=True)[:, :, None]
