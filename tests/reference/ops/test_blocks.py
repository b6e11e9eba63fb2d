"""Attention over chosen pairs; that over blocks is tested with the techniques that choose them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import Attention
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.attention import attend, share_heads
from lvlm_atlas.reference.ops.blocks import Blocks, Pairs, Replacement, block_sparse_attention, pair_attention
from lvlm_atlas.reference.refusal import Refusal


def randn(*shape: int, device: str, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def tensors(length: int, device: str, cached: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    keys = (randn(2, 2, cached + length, 8, device=device, seed=seed) for seed in (1, 2))
    return randn(2, 4, length, 8, device=device), *keys


def by_hand(query: Tensor, key: Tensor, value: Tensor, keep: Tensor, cached: int) -> Tensor:
    """A loop over rows; (B, H, N, d)."""
    key, value, out = share_heads(key, 4), share_heads(value, 4), torch.zeros_like(query)
    for b in range(2):
        for h in range(4):
            for i in range(query.shape[2]):
                row = keep[b % len(keep), h % keep.shape[1], i, : i + 1]
                seen = [*range(cached), *(cached + j for j in row.nonzero()[:, 0].tolist())]
                if seen:
                    logit = key[b, h, seen] @ query[b, h, i] / math.sqrt(8)
                    out[b, h, i] = logit.softmax(0) @ value[b, h, seen]
    return out


@pytest.mark.parametrize("cached", [0, 3])
@pytest.mark.parametrize("heads", [1, 4])
def test_pairs_are_those_of_a_loop_over_rows(device: str, cached: int, heads: int) -> None:
    query, key, value = tensors(9, device, cached)
    keep = randn(2, heads, 9, 9, device=device, seed=3) > 0
    out, scores = pair_attention(query, key, value, Pairs(keep))
    torch.testing.assert_close(out, by_hand(query, key, value, keep, cached))
    assert scores == int(keep.tril().sum()) * 4 // heads + 2 * 4 * 9 * cached


def test_a_row_without_keys_is_zero(device: str) -> None:
    query, key, value = tensors(5, device)
    keep = torch.eye(5, dtype=torch.bool, device=device)[None, None].clone()
    keep[..., 2, 2] = False
    out, scores = pair_attention(query, key, value, Pairs(keep))
    assert not out[:, :, 2].any()
    torch.testing.assert_close(out[:, :, 3], share_heads(value, 4)[:, :, 3])
    assert scores == 2 * 4 * 4


def test_padding_is_seen_by_itself_alone(device: str) -> None:
    query, key, value = tensors(6, device)
    everything = torch.ones(1, 1, 6, 6, dtype=torch.bool, device=device)
    real = torch.ones(2, 1, 6, dtype=torch.bool, device=device)
    real[0, 0, :2] = False
    out, _ = pair_attention(query, key, value, Pairs(everything), real)
    torch.testing.assert_close(out[:1, :, 2:], attend(query[:1, :, 2:], key[:1, :, 2:], value[:1, :, 2:], causal=True))
    torch.testing.assert_close(out[1:], attend(query[1:], key[1:], value[1:], causal=True))


def test_whole_blocks_are_pairs(device: str) -> None:
    query, key, value = tensors(21, device, cached=2)
    keep = (randn(2, 4, 3, 3, device=device, seed=7) > 0) | torch.eye(3, dtype=torch.bool, device=device)
    whole = keep.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :21, :21]
    blocks = block_sparse_attention(query, key, value, Blocks(keep.tril(), 8))
    pairs = pair_attention(query, key, value, Pairs(whole))
    torch.testing.assert_close(blocks[0], pairs[0])
    assert blocks[1] == pairs[1]


class Chosen(Technique):
    """The same for every layer."""

    acts_at = ("attention",)
    needs = ("block-sparse-kernel",)

    def __init__(self, *, instead: bool) -> None:
        self.instead = instead

    def choose_blocks(self, at: Attention) -> Pairs | Replacement:
        length = at.query_BHNd.shape[2]
        if not self.instead:
            return Pairs(torch.ones(1, 1, length, length, dtype=torch.bool, device=at.query_BHNd.device))
        out = attend(at.query_BHNd, at.key_BGNd, at.value_BGNd, causal=True)
        return Replacement(out, at.query_BHNd[..., 0].numel() * (length + 1) // 2)


@pytest.mark.parametrize("instead", [False, True])
@pytest.mark.parametrize("preset", ["tiny", "tiny-window"])
def test_all_pairs_and_the_same_instead_change_nothing(device: str, preset: str, instead: bool) -> None:
    model = LVLM.random(preset, device=device)
    request = random_request(model.config)
    plain, same = model.run(request), model.run(request, [Chosen(instead=instead)])
    torch.testing.assert_close(same.logits_NC, plain.logits_NC, atol=1e-4, rtol=1e-4)
    assert same.trace.score_entries == plain.trace.score_entries


def test_behind_a_cache_nothing_takes_the_place_of_attention(device: str) -> None:
    model = LVLM.random(device=device)
    stream = model.stream([Chosen(instead=True)])
    frames = random_request(model.config, frames=2).frames_F3HW
    stream.see(frames[:1])
    with pytest.raises(Refusal, match="no cached entries"):
        stream.see(frames[1:])
