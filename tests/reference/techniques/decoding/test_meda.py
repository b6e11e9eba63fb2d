"""MEDA."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheLayers, CacheTokens
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.look_m import LookM
from lvlm_atlas.reference.techniques.decoding.meda import Meda, cross_modal_entropy, layer_budgets


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def causal_map(length: int, heads: int = 2, sharpness: float = 1.0, seed: int = 0) -> Tensor:
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    return (randn(1, heads, length, length, seed=seed) * sharpness).masked_fill(hidden, float("-inf")).softmax(-1)


def at(vision: list[bool], scales: tuple[float, ...] = (1.0, 1.0)) -> CacheLayers:
    """Layers whose attention is the sharper the greater their scale."""
    length = len(vision)
    place = torch.arange(length).expand(1, 2, length)
    entries, probes = [], []
    for number, scale in enumerate(scales):
        query, key = randn(1, 4, length, 8, seed=number) * scale, randn(1, 2, length, 8, seed=number + 9)
        entries.append(Entries(key, key + 1, torch.tensor(vision).expand(1, 2, length), place))
        probes.append(Probe(query, key, causal=True))
    return CacheLayers(tuple(entries), tuple(probes), (0,) * len(scales))


PROMPT = [False] * 3 + [True] * 20 + [False] * 9


def test_even_attention_to_n_entries_of_the_other_modality_has_the_entropy_log_n() -> None:
    vision = torch.tensor([True] * 4 + [False] * 2)
    flat = causal_map(6, sharpness=0.0)
    # Text sees four vision tokens each; no vision token sees any text.
    assert float(cross_modal_entropy(flat, vision)) == pytest.approx(math.log(4))
    # Vision behind text: each of four sees both text tokens, and text sees no vision.
    assert float(cross_modal_entropy(flat, vision.flip(0))) == pytest.approx(math.log(2))


def test_both_directions_count_and_only_what_crosses() -> None:
    vision = torch.tensor([False, True, False])
    weight = torch.tensor([[[[1.0, 0, 0], [0.3, 0.7, 0], [0.2, 0.2, 0.6]]]])
    assert float(cross_modal_entropy(weight, vision)) == 0  # one entry of the other modality each: no choice
    vision = torch.tensor([True, True, False, True])
    weight = torch.tensor([[[[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.1, 0.3, 0.6, 0], [0.2, 0.2, 0.5, 0.1]]]])
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))  # the only text row, brought to sum 1
    assert float(cross_modal_entropy(weight, vision)) == pytest.approx(expected)


@given(st.lists(st.booleans(), min_size=2, max_size=12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_entropy_is_that_of_the_definition(vision: list[bool], seed: int) -> None:
    weight = causal_map(len(vision), sharpness=3, seed=seed)
    total = 0.0
    for modality in (True, False):
        rows = [row for row, visual in enumerate(vision) if visual == modality]
        columns = [column for column, visual in enumerate(vision) if visual != modality]
        for head in weight[0].tolist():
            for row in rows:
                seen = [head[row][column] for column in columns if head[row][column] > 0]
                total += -sum(w / sum(seen) * math.log(w / sum(seen)) for w in seen) / len(rows) / 2
    assert float(cross_modal_entropy(weight, torch.tensor(vision))) == pytest.approx(total, abs=1e-4)


def test_shares_by_hand() -> None:
    entropy = torch.tensor([0.0, math.log(2), math.log(5), math.log(2)])
    # Weights 1 : 2 : 5 : 2, shares 0.16, 0.32, 0.8, 0.32 of 101 entries, each in two whole halves.
    assert layer_budgets(entropy, [101] * 4, 0.4) == [16, 32, 80, 32]
    assert layer_budgets(entropy, [102] * 4, 0.62) == [24, 50, 102, 50]  # 1.24 is clipped, and not given to others
    assert layer_budgets(entropy, [102] * 4, 0.62, exact=True) == [30, 60, 102, 60]  # 150 in the ratio 1 : 2 : 2
    assert layer_budgets(entropy, [1, 2, 3, 250], 0.01) == [1, 1, 1, 2]


def test_equal_entropies_share_alike() -> None:
    assert layer_budgets(torch.full((3,), 2.5), [50] * 3, 0.2) == [10] * 3
    assert layer_budgets(torch.full((3,), 2.5), [50] * 3, 1.0, exact=True) == [50] * 3


@given(
    st.lists(st.tuples(st.floats(0, 9), st.integers(1, 400)), min_size=1, max_size=8), st.floats(0.01, 1), st.booleans()
)
@settings(deadline=None)
def test_budgets_lie_within_what_a_layer_holds_and_its_least_share(
    layers: list[tuple[float, int]], kept: float, exact: bool
) -> None:
    entropy, entries = torch.tensor([e for e, _ in layers]), [n for _, n in layers]
    budgets = layer_budgets(entropy, entries, kept, exact=exact)
    least = [max(1, 2 * int(0.005 * n)) for n in entries]
    assert all(low <= k <= n for low, k, n in zip(least, budgets, entries, strict=True))
    if exact:
        assert sum(budgets) == max(int(kept * sum(entries)), sum(least))
    else:
        assert all(k <= max(1, min(1, kept * len(entries)) * n) for k, n in zip(budgets, entries, strict=True))


def test_a_layer_whose_attention_is_spread_out_gets_more() -> None:
    kept = Meda(kept_share=0.5).compress_caches(at(PROMPT, scales=(9.0, 1.0)))
    assert kept[0].key_BGSd.shape[2] < kept[1].key_BGSd.shape[2]


def test_the_whole_map_and_that_between_modalities_differ() -> None:
    # Vision rows see no text before them: only the full entropy knows that layer 0 is sharp there.
    context = at([True] * 20 + [False] * 4, scales=(1.0, 1.0))
    query = context.probes[0].query_BHNd.clone()
    query[:, :, :20] *= 9
    context = replace(context, probes=(replace(context.probes[0], query_BHNd=query), context.probes[1]))
    counts = {
        entropy: [kept.key_BGSd.shape[2] for kept in Meda(kept_share=0.5, entropy=entropy).compress_caches(context)]
        for entropy in ("cross-modal", "full")
    }
    assert counts["full"][0] < counts["full"][1]
    assert counts["cross-modal"] != counts["full"]


@pytest.mark.parametrize("merge", ["averaged", "pivotal", "weighted", "none"])
def test_inside_a_layer_it_is_look_m(merge: str) -> None:
    context = at(PROMPT)
    kept = Meda(kept_share=0.25, merge=merge).compress_caches(context)
    for number, each in enumerate(kept):
        half = each.key_BGSd.shape[2] // 2
        share = half / len(PROMPT) + 1e-9
        look = LookM(hh_ratio=share, recent_ratio=share, merge=merge)
        like = look.compress_cache(CacheTokens(number, 2, context.entries[number], context.probes[number]))
        assert torch.equal(each.index_BGS, like.index_BGS)
        torch.testing.assert_close(each.key_BGSd, like.key_BGSd)
        torch.testing.assert_close(each.value_BGSd, like.value_BGSd)


def test_a_prompt_without_vision_tokens_is_left_alone() -> None:
    context = at([False] * 9)
    assert Meda().compress_caches(context) is context.entries


def test_entries_that_another_technique_evicted_before_are_refused() -> None:
    context = at(PROMPT)
    fewer = tuple(entries.keep(torch.arange(15).expand(1, 2, 15)) for entries in context.entries)
    with pytest.raises(Refusal, match="32 columns for 15 entries"):
        Meda().compress_caches(replace(context, entries=fewer))


def test_the_cache_is_cut_after_prefilling_and_then_grows(lvlm: LVLM) -> None:
    plain = lvlm.run(random_request(lvlm.config))
    cut = lvlm.run(random_request(lvlm.config), [Meda(exact=True)])
    torch.testing.assert_close(cut.logits_NC[0], plain.logits_NC[0], atol=1e-5, rtol=1e-5)
    trace = cut.trace
    assert sum(trace.kv_entries) == 320
    assert trace.kv_most_entries == [entries + 11 for entries in trace.kv_entries]
    assert trace.probe_entries == 4 * 4 * 400 * 401 // 2
    for index in trace.kv_index:
        recent = index.shape[2] - index.shape[2] // 2
        assert index[..., index.shape[2] - recent :].unique().tolist() == [*range(400 - recent, 400)]


def test_arguments_out_of_range_are_refused() -> None:
    for match, arguments in (
        (r"kept_share must lie in \(0, 1\], got 0.0", {"kept_share": 0.0}),
        ("merge must be one of pivotal, averaged, weighted, none, got 'sum'", {"merge": "sum"}),
        ("entropy must be one of cross-modal, full, got 'text'", {"entropy": "text"}),
    ):
        with pytest.raises(ValueError, match=match):
            Meda(**arguments)  # type: ignore[arg-type]
