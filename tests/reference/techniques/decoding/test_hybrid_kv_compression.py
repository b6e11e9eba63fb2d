"""HybridKV: kinds of heads, budgets, pruning with text first, chunks, and the stores inside the LVLM."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.host import HostStore
from lvlm_atlas.reference.caches.ragged import RaggedStore
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.random_request import random_request
from lvlm_atlas.reference.techniques.decoding.hybrid_kv_compression import (
    HybridKV,
    best_chunks,
    shares,
    sparsity,
    text_first,
)

STATIC = HybridKV(kept_share=0.2, threshold=0.0)
DYNAMIC = HybridKV(kept_share=0.2, threshold=1.0, chunk=8)
MIXED = HybridKV(kept_share=0.2, threshold=0.554, chunk=8)


def draw(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def filled(technique: HybridKV, request: Request, lvlm: LVLM) -> Cache:
    with torch.inference_mode():
        run = lvlm.begin(request, [technique])
        return lvlm.prefill(lvlm.prepare(run), run).cache


def test_sparsity_by_hand(device: str) -> None:
    score = torch.tensor([[[8.0, 1.0, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0]]], device=device)
    assert sparsity(score, 0.75).tolist() == [[0.75, 0.25]], "one of four, and three of four"
    assert sparsity(score, 0.85).tolist() == [[0.5, 0.0]]
    assert sparsity(score, 0.0).tolist() == [[0.75, 0.75]]
    assert sparsity(score, 1.0)[0, 1] == 0


@given(static=st.integers(0, 20), dynamic=st.integers(0, 20), weight=st.floats(1, 9), kept=st.floats(0.01, 1))
@settings(max_examples=40)
def test_shares_sum_to_what_all_heads_get(static: int, dynamic: int, weight: float, kept: float) -> None:
    if not static + dynamic:
        return
    few, many = shares(kept, static, dynamic, weight)
    assert static * few + dynamic * many == pytest.approx(kept * (static + dynamic))
    assert many == pytest.approx(weight * few)
    assert few >= kept / weight * (1 - 1e-9)


def test_text_stands_before_vision_whatever_its_score(device: str) -> None:
    score = torch.tensor([[[0.0, 0.9, 0.1, 0.2, 0.0, 0.05]]], device=device)
    vision = torch.tensor([[[False, True, True, True, True, False]]], device=device)
    assert text_first(score, vision, 1).tolist() == [[[5]]], "of text the higher score"
    assert text_first(score, vision, 2).tolist() == [[[0, 5]]]
    assert text_first(score, vision, 6).tolist() == [[[0, 1, 2, 3, 4, 5]]]
    spread = torch.zeros(1, 1, 9, device=device)
    spread[0, 0, 6] = 1.0
    all_vision = torch.ones_like(spread, dtype=torch.bool)
    assert text_first(spread, all_vision, 5).tolist() == [[[4, 5, 6, 7, 8]]], "neighbours are kept with it"


def test_chunks_are_chosen_by_the_mean_query_of_a_head(device: str) -> None:
    mean = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]]], device=device)
    query = torch.tensor([[[[2.0, 1.0]], [[2.0, -3.0]]]], device=device)  # two query heads share it: mean (2, −1)
    assert best_chunks(query, mean, 1).tolist() == [[[0]]]
    assert best_chunks(query, mean, 2).tolist() == [[[0, 1]]]
    assert best_chunks(-query, mean, 2).tolist() == [[[1, 2]]]


def test_heads_change_their_kind_with_the_prompt() -> None:
    lvlm = LVLM.random()
    kinds = set()
    for seed in range(4):
        cache = filled(MIXED, random_request(lvlm.config, seed=seed), lvlm)
        kinds.add(tuple(
            tuple(type(head) for head in store.heads) if isinstance(store, RaggedStore) else type(store)
            for store in cache.stores
        ))  # fmt: skip
    assert len(kinds) > 1


def test_static_heads_are_pruned_once_and_text_stays() -> None:
    lvlm = LVLM.random()
    request = random_request(lvlm.config, max_new_tokens=3)
    cache = filled(STATIC, request, lvlm)
    for layer in range(len(cache.stores)):
        held = cache.held(layer)
        assert held.length == 80, "a fifth of 400"
        assert int((~held.vision_BGS[0, 0]).sum()) == 16
    trace = lvlm.run(request, [STATIC]).trace
    assert trace.kv_entries == [80] * 4
    assert trace.kv_resident_byte == sum(trace.kv_byte)


def test_chunks_wait_on_the_host_and_what_is_fetched_is_counted() -> None:
    lvlm = LVLM.random()
    request = random_request(lvlm.config, text_tokens=19, max_new_tokens=2)
    plain, trace = lvlm.run(request).trace, lvlm.run(request, [DYNAMIC]).trace
    assert trace.kv_entries == plain.kv_entries == [403] * 4
    entry = plain.kv_byte[0] // 403
    assert trace.kv_byte == plain.kv_byte
    assert trace.kv_resident_byte == 4 * 3 * entry, "403 = 50 chunks of 8 and 3"
    cache = filled(DYNAMIC, request, lvlm)
    with torch.inference_mode():
        lvlm.advance(torch.tensor([[5]]), cache)
    # A budget of 80 and the 3 that stay: 10 chunks a head, and heads of a layer may want different ones.
    fetched = cache.fetched_byte / (8 * entry)
    assert 4 * 10 <= fetched <= 4 * 20


def test_each_step_fetches_what_its_query_asks_for() -> None:
    lvlm = LVLM.random()
    cache = filled(DYNAMIC, random_request(lvlm.config), lvlm)
    store = cache.stores[1]
    assert isinstance(store, HostStore)
    key = store.read()[0].clone()
    for chunk in (7, 31):
        query = 100 * key[:, :, 8 * chunk : 8 * chunk + 8].mean(dim=2, keepdim=True)
        heads = lvlm.config.text.num_attention_heads // key.shape[1]
        reading = cache.read(1, query.repeat_interleave(heads, dim=1))
        found = (reading.key_BGSd[:, :, :, None] == key[:, :, None, 8 * chunk : 8 * chunk + 8]).all(-1).any(dim=2)
        mean = torch.unflatten(key, 2, (50, 8)).mean(dim=3)
        wanted = (query * mean).sum(-1).topk(10, dim=-1).indices
        assert found.all(dim=-1).tolist() == (wanted == chunk).any(dim=-1).tolist()
        assert reading.key_BGSd.shape[2] == 80


def test_what_stands_for_a_chunk_is_the_mean_of_its_keys_as_cached(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    acting = DYNAMIC.begin(lvlm.begin(request))

    class Watched(HybridKV):
        def begin(self, run: object) -> object:  # type: ignore[override]
            return acting

    cache = filled(Watched(**vars(DYNAMIC)), request, lvlm)
    for plan, store in zip(acting.plans, cache.stores, strict=True):
        key = store.read()[0][:, :, :400]
        torch.testing.assert_close(plan.mean_BGcd, torch.unflatten(key, 2, (50, 8)).mean(dim=3))


@pytest.mark.parametrize("technique", [replace(MIXED, kept_share=1.0), replace(DYNAMIC, kept_share=0.999, chunk=1)])
def test_a_budget_for_everything_changes_no_answer(technique: HybridKV, device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=4)
    plain, same = lvlm.run(request), lvlm.run(request, [technique])
    torch.testing.assert_close(
        plain.logits_NC, same.logits_NC, atol=2e-3 if technique.kept_share < 1 else 1e-5, rtol=1e-3
    )
    assert plain.trace.kv_entries == same.trace.kv_entries


def test_static_and_dynamic_heads_are_read_side_by_side() -> None:
    lvlm = LVLM.random()
    request = random_request(lvlm.config, max_new_tokens=4)
    cache = filled(MIXED, request, lvlm)
    ragged = [layer for layer, store in enumerate(cache.stores) if isinstance(store, RaggedStore)]
    assert ragged, "the threshold lies between the heads of a layer"
    store = cache.stores[ragged[0]]
    assert isinstance(store, RaggedStore)
    lengths = [head.length for head in store.heads]
    assert sorted(set(lengths)) == [80, 400]
    query = draw(1, lvlm.config.text.num_attention_heads, 1, lvlm.config.text.head_dim)
    reading = cache.read(ragged[0], query)
    assert reading.real_BGR is not None
    assert reading.key_BGSd.shape[2] == 80
    static = lengths.index(80)
    torch.testing.assert_close(reading.key_BGSd[0, static], store.heads[static].read()[0][0, 0])
    assert reading.real_BGR.all()
    assert lvlm.run(request, [MIXED]).tokens_N.shape == (4,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kept_share": 0.0}, r"kept_share must lie in \(0, 1\], got 0.0"),
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\], got 1.5"),
        ({"dynamic_weight": 0.5}, "dynamic_weight must be at least 1, got 0.5"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"window": 0}, "window must be at least 1, got 0"),
    ],
)
def test_illegal_parameters_are_told(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HybridKV(**arguments)  # type: ignore[arg-type]
