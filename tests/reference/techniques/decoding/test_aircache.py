"""AirCache."""

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
from lvlm_atlas.reference.techniques.decoding.aircache import AirCache, elite, importance, layer_budgets, skewness

PROMPT = [False] * 3 + [True] * 24 + [False] * 8


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def at(vision: list[bool], layers: int = 2, seed: int = 0) -> CacheLayers:
    length = len(vision)
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(length).expand(1, 2, length)
    entries, probes = [], []
    for _ in range(layers):
        query, key, value = (torch.randn(1, count, length, 8, generator=generator) for count in (4, 2, 2))
        entries.append(Entries(key, value, torch.tensor(vision).expand(1, 2, length), place))
        probes.append(Probe(query, key, causal=True))
    return CacheLayers(tuple(entries), tuple(probes), (0,) * layers)


def test_elite_words_are_those_that_the_last_one_rests_on() -> None:
    # The last word pays 0.2, 0.05, 0.15 and 0.1 to the text; what it pays the image does not matter.
    row = torch.tensor([0.5, 0.2, 0.05, 0.15, 0.1])
    weight = torch.zeros(1, 1, 4, 5)
    weight[0, 0, -1] = row
    assert elite(weight, 0.9).tolist() == [[True, False, False, False]]
    assert elite(weight, 0.7).tolist() == [[True, False, True, False]]
    assert elite(weight, 0.0).all()


def test_words_are_ranked_by_the_mean_over_heads_each_with_its_own_sum() -> None:
    weight = torch.zeros(1, 2, 2, 3)
    weight[0, 0, -1] = torch.tensor([0.0, 0.4, 0.6])  # all to text
    weight[0, 1, -1] = torch.tensor([0.99, 0.008, 0.002])  # of the text, four fifths to the first
    assert elite(weight, 1.0).tolist() == [[True, False]]  # 0.4 + 0.8 against 0.6 + 0.2


def test_importance_is_what_elite_words_pay_of_what_they_pay_vision_and_each_other() -> None:
    vision = torch.tensor([False, True, True, False, False, False])
    weight = torch.tensor([[[[0.5, 0.1, 0.3, 0.1, 0, 0], [0.1, 0.2, 0.2, 0.3, 0.2, 0], [0, 0.1, 0.1, 0.1, 0.3, 0.4]]]])
    chosen = torch.tensor([[True, False, True]])
    # First word: 0.1 and 0.3 of 0.5; third: 0.1 and 0.1 of 0.2 + 0.1 + 0.4.
    expected = [0, (0.2 + 1 / 7) / 2, (0.6 + 1 / 7) / 2, 0, 0, 0]
    assert importance(weight, vision, chosen, 1)[0, 0].tolist() == pytest.approx(expected)
    alone = torch.tensor([[False, True, False]])
    assert importance(weight, vision, alone, 1)[0, 0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 0, 0, 0])


def test_heads_of_a_group_are_averaged() -> None:
    vision = torch.tensor([True, True, False])
    weight = torch.tensor([[0.6, 0.2, 0.2], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1]])[None, :, None]
    got = importance(weight, vision, torch.tensor([[True]]), 2)
    assert got[0].flatten().tolist() == pytest.approx([0.4, 0.2, 0, 0.2, 0.7, 0])


def test_skewness_by_hand() -> None:
    # 0, 0, 0 and 4: mean 1, deviation 2, cubes −1/8 three times and 27/8, by 4 / (3 · 2).
    assert float(skewness(torch.tensor([0.0, 0, 0, 4]))) == pytest.approx(2)
    assert float(skewness(torch.tensor([4.0, 4, 4, 0]))) == pytest.approx(-2)
    assert float(skewness(torch.tensor([1.0, 2, 3]))) == pytest.approx(0)
    assert float(skewness(torch.full((5,), 0.25))) == 0
    assert float(skewness(torch.tensor([1.0, 9]))) == 0


def test_budgets_by_hand() -> None:
    strength, skew = torch.tensor([0.6, 0.2, 0.4]), torch.tensor([1.0, 3.0, -2.0])
    # Strengths 1.5, 0.5, 1 of the mean, skewness 0.75, 2.25, 0: half of the sums is 1.125, 1.375 and 0.5.
    assert layer_budgets(strength, skew, [81] * 3, 0.2) == [18, 22, 8]
    assert layer_budgets(strength, skew, [81] * 3, 0.8) == [72, 81, 32]  # 1.1 is clipped
    assert layer_budgets(strength, skew, [80] * 3, 0.75, exact=True) == [69, 80, 31]  # 100 in the ratio 9 : 4
    assert layer_budgets(torch.zeros(2), torch.zeros(2), [50] * 2, 0.2) == [10, 10]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-5, 5), st.integers(0, 300)), min_size=1, max_size=8),
    st.floats(0.01, 1), st.booleans(),
)  # fmt: skip
@settings(deadline=None)
def test_budgets_lie_within_what_a_layer_holds(
    layers: list[tuple[float, float, int]], share: float, exact: bool
) -> None:
    strength, skew = torch.tensor([s for s, _, _ in layers]), torch.tensor([k for _, k, _ in layers])
    entries = [n for _, _, n in layers]
    budgets = layer_budgets(strength, skew, entries, share, exact=exact)
    assert all(min(1, n) <= k <= n for k, n in zip(budgets, entries, strict=True))
    if exact:
        assert sum(budgets) == max(int(share * sum(entries)), sum(min(1, n) for n in entries))
    else:
        assert all(k <= max(1, share * len(entries) * n + 1e-6) for k, n in zip(budgets, entries, strict=True))


def test_all_text_stays_and_each_head_keeps_its_own_vision_entries() -> None:
    context = at(PROMPT, seed=3)
    kept = AirCache(kept_share=0.25, threshold=0.5).compress_caches(context)
    for entries, each, probe in zip(context.entries, kept, context.probes, strict=True):
        weight = probe.rows(slice(-8, None))
        score = importance(weight, entries.vision_BGS[0, 0], elite(weight, 0.5), 2)[0]
        keep = each.key_BGSd.shape[2] - 11
        for head, index in enumerate(each.index_BGS[0]):
            best = score[head].topk(keep).indices.sort().values
            assert index.tolist() == sorted([*range(3), *best.tolist(), *range(27, 35)])
            assert torch.equal(each.value_BGSd[0, head], entries.value_BGSd[0, head, index])


def test_text_before_the_image_is_never_elite() -> None:
    # A sink at the very first token would else be the only word that the last one rests on, and it sees no image.
    context = at(PROMPT)
    sink = [replace(probe, key_BGNd=probe.key_BGNd.clone()) for probe in context.probes]
    for probe in sink:
        probe.key_BGNd[:, :, 0] = 4 * probe.query_BHNd[:, ::2, -1]
    before = AirCache(kept_share=0.25).compress_caches(context)
    after = AirCache(kept_share=0.25).compress_caches(replace(context, probes=tuple(sink)))
    assert [each.index_BGS[0, 0].tolist() for each in before] == [each.index_BGS[0, 0].tolist() for each in after]


def test_a_prompt_that_ends_with_vision_is_refused() -> None:
    with pytest.raises(Refusal, match="needs text after the last vision token, got none"):
        AirCache().compress_caches(at([False] * 3 + [True] * 9))


def test_a_prompt_without_vision_tokens_is_left_alone() -> None:
    context = at([False] * 9)
    assert AirCache().compress_caches(context) is context.entries


def test_entries_that_another_technique_evicted_before_are_refused() -> None:
    context = at(PROMPT)
    fewer = tuple(entries.keep(torch.arange(5, 35).expand(1, 2, 30)) for entries in context.entries)
    with pytest.raises(Refusal, match="35 columns for 30 entries"):
        AirCache().compress_caches(replace(context, entries=fewer))


def test_the_cache_is_cut_after_prefilling_and_then_grows(lvlm: LVLM) -> None:
    def run(technique: AirCache) -> tuple[list[float], list[float], int, list[Tensor]]:
        trace = lvlm.run(random_request(lvlm.config), [technique]).trace
        return trace.kv_entries, trace.kv_most_entries, trace.probe_entries, trace.kv_index

    entries, most, probed, index = run(AirCache(exact=True))
    assert sum(entries) == 4 * 16 + int(0.1 * 4 * 384)
    assert most == [count + 11 for count in entries]
    assert probed == 4 * 4 * sum(range(389, 401))  # the twelve words behind the images
    assert {*range(388, 400)} <= {*index[0][0, 0].tolist()}


def test_arguments_out_of_range_are_refused() -> None:
    for match, arguments in (
        (r"kept_share must lie in \(0, 1\], got 0.0", {"kept_share": 0.0}),
        (r"threshold must lie in \[0, 1\], got 1.5", {"threshold": 1.5}),
    ):
        with pytest.raises(ValueError, match=match):
            AirCache(**arguments)  # type: ignore[arg-type]
