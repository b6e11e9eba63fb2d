"""Biases of keys: tokens that stand for several count as many, in prefill, in the cache and where somebody looks."""

import math

import torch

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Held, Sequence
from lvlm_atlas.reference.ops.attention import joined_bias, with_bias


def test_a_bias_of_log_two_counts_a_key_twice(device: str) -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(1, 4, 5, 8, generator=generator).to(device) for _ in range(3))
    bias = torch.tensor([[[0, math.log(2), 0, 0, 0]]], device=device)
    weight = Probe(query, key, causal=False, bias_BN=bias).rows()
    twice = Probe(query, key[:, :, [0, 1, 1, 2, 3, 4]][:, :, -5:], causal=False)
    assert twice.rows().shape == weight.shape
    logit = query @ key.mT / 8**0.5
    doubled = torch.cat([logit, logit[..., 1:2]], dim=-1).softmax(-1)
    assert torch.allclose(weight[..., 1], doubled[..., 1] + doubled[..., 5], atol=1e-6)
    mask = with_bias(None, bias, 4, query.dtype)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask.expand(1, 4, 5, 5))
    assert torch.allclose(out, weight @ value, atol=1e-5)


def test_biases_of_cached_and_new_keys_stand_side_by_side(device: str) -> None:
    new, cached = torch.ones(1, 2, device=device), torch.full((1, 3, 4), 7.0, device=device)
    assert joined_bias(None, None, 4, 2) is None
    assert joined_bias(None, new, 3, 2).tolist() == [[[0, 0, 0, 1, 1]]]
    assert joined_bias(cached, None, 4, 2)[0, 1].tolist() == [7, 7, 7, 7, 0, 0]
    assert joined_bias(cached, new, 4, 2)[0, 2].tolist() == [7, 7, 7, 7, 1, 1]


def test_a_bias_goes_with_its_token_and_is_cached_by_its_place_in_the_text(device: str) -> None:
    place = torch.tensor([[2, 4, 5]], device=device)
    bias = torch.tensor([[0.5, 1.5, 2.5]], device=device)
    sequence = Sequence(torch.zeros(1, 3, 2, device=device), place, place > 9, place, bias_BN=bias)
    kept = sequence.keep(torch.tensor([[0, 2]], device=device))
    assert kept.bias_BN is not None
    assert kept.bias_BN.tolist() == [[0.5, 2.5]]
    assert sequence.behind(3, torch.ones(1, dtype=torch.long, device=device)).bias_BN is bias
    cache = Cache([], [], next_position=torch.empty(0))
    cache.note_bias(0, sequence)
    cache.note_bias(1, Sequence(sequence.hidden_BND, place, place > 9, place))
    # Heads hold different tokens, one of them decoded since.
    index = torch.tensor([[[2, 5, 9], [3, 4, 5]]], device=device)
    held = Held(index > 99, index, index)
    assert cache.bias(0, lambda: held).tolist() == [[[0.5, 2.5, 0], [0, 1.5, 2.5]]]
    assert cache.bias(1, lambda: held) is None
    # Another round, whose tokens follow.
    later = torch.tensor([[7, 9]], device=device)
    cache.note_bias(0, Sequence(sequence.hidden_BND[:, :2], later, later > 9, later, bias_BN=bias[:, :2]))
    assert cache.bias(0, lambda: held).tolist() == [[[0.5, 2.5, 1.5], [0, 1.5, 2.5]]]


def test_rows_of_heads_that_hold_different_entries_have_biases_of_their_own(device: str) -> None:
    generator = torch.Generator().manual_seed(5)
    query = torch.randn(1, 4, 2, 8, generator=generator).to(device)
    key = torch.randn(1, 2, 5, 8, generator=generator).to(device)
    bias = torch.randn(1, 2, 5, generator=generator).to(device)
    rows = Probe(query, key, causal=False, bias_BN=bias).rows(earlier=True)
    for head in range(4):
        logit = query[0, head] @ key[0, head // 2].T / 8**0.5 + bias[0, head // 2]
        assert torch.allclose(rows[0, head], logit.softmax(-1), atol=1e-6)
