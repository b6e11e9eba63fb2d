"""VL-Cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheLayers
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.decoding.vl_cache import VlCache, layer_budgets, post_vision_density, select
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(count: int, entries: int, heads: int = 2, sharpness: float = 1.0, seed: int = 0) -> Tensor:
    """The last rows of a causal softmax map."""
    logit = randn(1, heads, count, entries, seed=seed) * sharpness
    hidden = torch.ones(count, entries, dtype=torch.bool).triu(entries - count + 1)
    return logit.masked_fill(hidden, float("-inf")).softmax(-1)


def at(vision: list[bool], layers: int = 2, scales: tuple[float, ...] = (1.0, 1.0)) -> CacheLayers:
    """Layers whose attention is the sharper the greater their scale."""
    length = len(vision)
    place = torch.arange(length).expand(1, 2, length)
    mask = torch.tensor(vision).expand(1, 2, length)
    entries, probes = [], []
    for layer in range(layers):
        query, key = randn(1, 4, length, 8, seed=layer) * scales[layer], randn(1, 2, length, 8, seed=layer + 9)
        entries.append(Entries(key, key + 1, mask, place))
        probes.append(Probe(query, key, causal=True))
    return CacheLayers(tuple(entries), tuple(probes), (0,) * layers)


def test_the_threshold_is_relative_to_each_row() -> None:
    weight = torch.tensor([[[[0.9, 0.05, 0.05, 0.0], [0.26, 0.25, 0.25, 0.24]]]])
    # 0.05 of 0.9 is below a tenth; nothing of the flat row is, and the fourth place of the first row is hidden.
    assert float(post_vision_density(weight, 0.1)) == pytest.approx(5 / 7)
    assert float(post_vision_density(weight, 0.05)) == pytest.approx(7 / 7)


@given(st.integers(1, 9), st.integers(0, 20), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_density_is_that_of_the_definition(count: int, before: int, seed: int) -> None:
    weight = rows(count, before + count, sharpness=3, seed=seed)
    shares = []
    for head in weight[0]:
        seen = [row[: before + i + 1] for i, row in enumerate(head)]
        shares.append(sum(int((row >= 0.05 * row.max()).sum()) for row in seen) / sum(len(row) for row in seen))
    assert float(post_vision_density(weight, 0.05)) == pytest.approx(sum(shares) / len(shares))


def test_hidden_places_do_not_count_as_sparse() -> None:
    flat = rows(6, 6, sharpness=0.0)
    assert float(post_vision_density(flat, 1.0)) == 1


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.integers(1, 400)), min_size=1, max_size=8),
    st.floats(0.01, 1), st.floats(0, 0.5), st.booleans(),
)  # fmt: skip
@settings(deadline=None)
def test_budgets_lie_within_what_a_layer_holds_and_its_least_share(
    layers: list[tuple[float, int]], kept: float, least: float, exact: bool
) -> None:
    density, entries = torch.tensor([d for d, _ in layers]), [n for _, n in layers]
    budgets = layer_budgets(density, entries, kept, least, exact=exact)
    assert all(max(1, int(least * n)) <= k <= n for k, n in zip(budgets, entries, strict=True))
    if exact:
        assert sum(budgets) == max(int(kept * sum(entries)), sum(max(1, int(least * n)) for n in entries))


def test_exact_budgets_sum_to_what_was_asked_where_clipped_ones_do_not() -> None:
    density = torch.tensor([0.9, 0.1, 0.1, 0.1], dtype=torch.double)
    assert layer_budgets(density, [100] * 4, 0.5, 0.01) == [100, 16, 16, 16]  # 150 % of the first, clipped
    assert layer_budgets(density, [100] * 4, 0.5, 0.01, exact=True) == [100, 34, 33, 33]
    assert layer_budgets(density, [100, 50, 100, 7], 1.0, 0.01, exact=True) == [100, 50, 100, 7]


def test_a_layer_gets_more_where_others_are_sparser() -> None:
    technique = VlCache(kept_share=0.5)
    vision = [False] * 2 + [True] * 20 + [False] * 8
    alike, beside = (technique.compress_caches(at(vision, scales=scales)) for scales in ((1.0, 1.0), (1.0, 9.0)))
    assert alike[0].key_BGSd.shape[2] < beside[0].key_BGSd.shape[2]
    assert beside[1].key_BGSd.shape[2] < beside[0].key_BGSd.shape[2]


def test_recent_entries_are_part_of_the_budget() -> None:
    score = torch.tensor([[[5.0, 1, 4, 1, 3, 0, 0, 0], [0, 1, 0, 3, 0, 2, 0, 9]]])
    assert select(score, 4, 2).tolist() == [[[0, 2, 6, 7], [3, 5, 6, 7]]]
    assert select(score, 3, 0).tolist() == [[[0, 2, 4], [3, 5, 7]]]
    assert select(score, 8, 3).tolist() == [[[*range(8)]] * 2]


def test_only_rows_after_the_last_vision_token_count() -> None:
    vision = [False] * 3 + [True] * 5 + [False] * 4 + [True] * 5 + [False] * 6
    context = at(vision)
    read: list[int] = []
    watched = tuple(replace(probe, on_read=read.append) for probe in context.probes)
    kept = VlCache(kept_share=0.5, window_share=0).compress_caches(replace(context, probes=watched))
    assert read == [4 * sum(range(18, 24))] * 2
    score = context.probes[0].rows(slice(-6, None)).sum(2)[0].reshape(2, 2, -1).mean(1)
    for head, index in enumerate(kept[0].index_BGS[0]):
        best = score[head].topk(len(index)).indices.sort().values
        assert torch.equal(index, best)


def test_a_prompt_that_ends_with_vision_is_refused() -> None:
    with pytest.raises(Refusal, match="needs text after the last vision token, got none"):
        VlCache().compress_caches(at([False] * 3 + [True] * 9))


def test_a_prompt_without_vision_tokens_is_left_alone() -> None:
    context = at([False] * 9)
    assert VlCache().compress_caches(context) is context.entries


def test_entries_that_another_technique_evicted_before_are_refused() -> None:
    context = at([False] * 3 + [True] * 9 + [False] * 8)
    fewer = tuple(entries.keep(torch.arange(15).expand(1, 2, 15)) for entries in context.entries)
    with pytest.raises(Refusal, match="20 columns for 15 entries"):
        VlCache().compress_caches(replace(context, entries=fewer))


def test_the_cache_is_cut_after_prefilling_and_then_grows(lvlm: LVLM) -> None:
    plain = lvlm.run(random_request(lvlm.config))
    cut = lvlm.run(random_request(lvlm.config), [VlCache(kept_share=0.2, exact=True)])
    torch.testing.assert_close(cut.logits_NC[0], plain.logits_NC[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(cut.logits_NC[1], plain.logits_NC[1], atol=1e-2)
    trace = cut.trace
    assert trace.llm_tokens == [400] * 4
    assert sum(trace.kv_entries) == 320
    assert trace.kv_most_entries == [entries + 11 for entries in trace.kv_entries]
    assert trace.probe_entries == 4 * 4 * sum(range(389, 401))  # twelve rows of four layers and heads
    assert trace.kv_byte == [entries * 2 * 2 * 16 * 4 for entries in trace.kv_entries]
    for index in trace.kv_index:
        recent = int(0.1 * index.shape[2])
        assert index[..., index.shape[2] - recent :].unique().tolist() == [*range(400 - recent, 400)]


def test_each_layer_of_a_pruned_prompt_divides_what_it_has(lvlm: LVLM) -> None:
    stack = [
        FastV(layer=2, keep_ratio=0.5),
        VlCache(kept_share=0.25, exact=True),
        Kivi(group_size=16, residual_length=32),
    ]
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=2), stack).trace
    assert sum(trace.kv_entries) == (400 + 400 + 208 + 208) // 4
    for kept, index in zip(trace.kept, trace.kv_index, strict=True):
        assert {*index.flatten().tolist()} <= {*kept.flatten().tolist()}


def test_arguments_out_of_range_are_refused() -> None:
    for name, number in (("kept_share", 0.0), ("threshold", 1.5), ("window_share", -0.1), ("min_share", 2.0)):
        with pytest.raises(ValueError, match=f"{name} must lie in .*, got {number}"):
            VlCache(**{name: number})  # type: ignore[arg-type]
