"""SpargeAttn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.techniques.prefilling.spargeattn import SpargeAttn, chosen, estimate, pool

FULL = 400 * 401 // 2


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def randn(*shape: int, device: str, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def kept(weight: list[list[float]], device: str, top_k: float = 1.0, cdf: float = 0.0) -> list[list[int]]:
    mask = chosen(torch.tensor([[weight]], device=device), top_k, cdf)[0, 0]
    return [row.nonzero()[:, 0].tolist() for row in mask]


@pytest.mark.parametrize("length", [1, 7, 8, 21])
def test_similarity_is_the_mean_of_all_cosines(device: str, length: int) -> None:
    x = randn(2, 3, length, 5, device=device)
    _, similarity = pool(x, 8)
    assert similarity.shape == (2, 3, math.ceil(length / 8))
    for block in range(math.ceil(length / 8)):
        unit = functional.normalize(x[:, :, 8 * block : 8 * block + 8], dim=-1)
        torch.testing.assert_close(similarity[:, :, block], (unit @ unit.mT).mean((-1, -2)))
    assert bool((similarity >= 0).all())  # so that a threshold below 0 trusts every block
    opposite = torch.cat([x[:, :, :1], -x[:, :, :1]], dim=2)
    assert float(pool(opposite, 2)[1].abs().max()) < 1e-6


def test_the_last_block_has_the_mean_of_its_own_tokens(device: str) -> None:
    x = randn(1, 2, 11, 4, device=device)
    mean, _ = pool(x, 8)
    torch.testing.assert_close(mean, torch.stack([x[:, :, :8].mean(2), x[:, :, 8:].mean(2)], dim=2))


def test_the_estimate_is_a_softmax_over_similar_and_visible_blocks(device: str) -> None:
    query, key = randn(1, 1, 2, 4, device=device), randn(1, 1, 4, 4, device=device, seed=1)
    similar = torch.tensor([[[True, False, True, True]]], device=device)
    visible = torch.tensor([[True, True, False, False], [True, True, True, True]], device=device)
    weight = estimate(query, key, similar, visible)[0, 0]
    logit = query[0, 0] @ key[0, 0].T / 2
    assert weight[0].tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(weight[1][[0, 2, 3]], logit[1][[0, 2, 3]].softmax(0))
    assert not estimate(query, key, similar & False, visible).any()


def test_the_share_is_one_of_all_blocks(device: str) -> None:
    weight = [[1, 0, 0, 0], [0.4, 0.6, 0, 0], [0.2, 0.3, 0.5, 0], [0.1, 0.2, 0.3, 0.4]]
    assert kept(weight, device, 0.5) == [[0, 1], [0, 1], [1, 2], [2, 3]]
    assert kept(weight, device, 0.26) == [[0], [1], [2], [3]]
    assert kept(weight, device, 0.01) == [[0], [1], [2], [3]]
    assert kept(weight, device, 1.0)[0] == [0, 1, 2, 3]


def test_blocks_stay_within_the_threshold(device: str) -> None:
    weight = [[0.5, 0.25, 0.125, 0.125]]
    assert kept(weight, device, cdf=0.75) == [[0, 1]]
    assert kept(weight, device, cdf=0.8) == [[0, 1]]  # the third would cross it
    assert kept(weight, device, cdf=0.1) == [[0]]
    assert kept(weight, device, cdf=1.0) == [[0, 1, 2, 3]]


def test_blocks_that_are_not_similar_are_computed_in_full(device: str) -> None:
    alike = randn(1, 1, 1, 4, device=device).expand(1, 1, 64, 4).clone()
    query, key = alike.clone(), alike.clone()
    query[:, :, 32:40] *= torch.tensor([1, -1] * 4, device=device)[:, None]  # query block 4 points nowhere
    key[:, :, 16:24] *= torch.tensor([1, -1] * 4, device=device)[:, None]  # and key block 2
    keep = SpargeAttn(top_k=0.01, similarity_threshold=0.5, query_block=8, key_block=8).keep(query, key)[0, 0]
    assert keep[4].tolist() == [True] * 5 + [False] * 3
    assert keep[:, 2].tolist() == [False] * 2 + [True] * 6
    assert keep.sum(-1).tolist() == [1, 1, 2, 2, 5, 2, 2, 2]
    trusting = SpargeAttn(top_k=0.01, similarity_threshold=-0.1, query_block=8, key_block=8).keep(query, key)[0, 0]
    assert trusting.sum(-1).tolist() == [1] * 8


def test_a_block_that_many_look_for_is_kept(device: str) -> None:
    query, key = randn(1, 1, 256, 8, device=device), randn(1, 1, 256, 8, device=device, seed=1)
    query[..., 0] = 4
    key[:, :, 64:80, 0] = 4
    keep = SpargeAttn(cdf_threshold=0.9, query_block=32, key_block=16).keep(query, key)[0, 0]
    assert bool(keep[2:, 4].all())
    assert int(keep.sum()) < 40


def test_keys_are_centred_first(lvlm: LVLM, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    keep = SpargeAttn.keep
    monkeypatch.setattr(SpargeAttn, "keep", lambda self, q, k: (seen.append(k), keep(self, q, k))[1])
    lvlm.run(random_request(lvlm.config), [SpargeAttn(query_block=16, key_block=8)])
    assert len(seen) == 4
    for key in seen:
        torch.testing.assert_close(key.mean(2), torch.zeros_like(key.mean(2)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("query_block", "key_block"), [(16, 8), (8, 16), (24, 16)])
@pytest.mark.parametrize("top_k", [0.2, 0.5, 1.0])
def test_the_number_of_blocks_is_fixed_where_all_are_trusted(
    lvlm: LVLM, query_block: int, key_block: int, top_k: float
) -> None:
    technique = SpargeAttn(top_k=top_k, query_block=query_block, key_block=key_block)
    scores = lvlm.run(random_request(lvlm.config), [technique]).trace.score_entries
    number = max(1, int(top_k * math.ceil(400 / key_block))) * key_block
    most = sum(min(q + 1, number) for q in range(400))
    least = sum(max(0, min(q, number) - query_block - 2 * key_block) for q in range(400))
    assert all(4 * least <= n <= 4 * most for n in scores)


def test_all_blocks_are_dense_attention(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    plain, same = lvlm.run(request), lvlm.run(request, [SpargeAttn(top_k=1.0, query_block=16, key_block=8)])
    torch.testing.assert_close(same.logits_NC, plain.logits_NC, atol=1e-4, rtol=1e-4)
    assert same.trace.score_entries == plain.trace.score_entries == [4 * FULL] * 4
    few = lvlm.run(request, [SpargeAttn(top_k=0.2, query_block=16, key_block=8)])
    assert few.trace.kv_entries == plain.trace.kv_entries
    assert not torch.allclose(few.logits_NC, plain.logits_NC, atol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": 0.0},
        {"cdf_threshold": 1.5},
        {"similarity_threshold": -2.0},
        {"query_block": 0},
        {"key_block": 0},
    ],
)
def test_illegal_values_are_told(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SpargeAttn(**wrong)  # type: ignore[arg-type]
