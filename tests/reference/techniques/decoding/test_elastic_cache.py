"""Elastic Cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.techniques.decoding.elastic_cache import (
    Elastic,
    ElasticCache,
    budget,
    eliminate,
    merge,
    nearest,
    select,
)
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def layer(length: int, seed: int, device: str = "cpu") -> CacheTokens:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(1, count, length, 8, generator=generator).to(device) for count in (4, 2, 2))
    place = torch.arange(length, device=device).expand(1, 2, length)
    return CacheTokens(0, 1, Entries(key, value, place < 0, place), Probe(query, key, causal=True))


def by_hand(at: CacheTokens, setting: ElasticCache) -> tuple[list[int], Tensor, Tensor]:
    """Places that stay, and the keys and values there, from the definition, number by number."""
    query, key = at.probe.query_BHNd[0].double(), at.entries.key_BGSd[0].double()
    length, score = key.shape[1], [0.0] * key.shape[1]
    for head in range(4):
        for row in range(length):
            paid = (key[head // 2, : row + 1] @ query[head, row] / 8**0.5).softmax(-1).tolist()
            for place, weight in enumerate(paid):
                score[place] += weight
    goes = int(length * setting.ratio)
    candidates = range(setting.start_size, length - 1)
    evicted = sorted(candidates, key=lambda place: (score[place], -place))[:goes]
    anchors = [place for place in candidates if place not in evicted]
    stays = [place for place in range(length) if place not in evicted]
    taken: dict[int, list[int]] = {place: [place] for place in stays}
    for place in evicted:
        if anchors:
            taken[min(anchors, key=lambda anchor: (abs(anchor - place), anchor))].append(place)
    pair = (
        torch.stack([x[0][:, taken[place]].double().mean(1) for place in stays], dim=1)
        for x in (at.entries.key_BGSd, at.entries.value_BGSd)
    )
    return stays, *pair


@given(st.integers(1, 40), st.floats(0, 0.99), st.integers(0, 6), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_what_stays_of_the_prompt_is_that_of_the_definition(length: int, ratio: float, start: int, seed: int) -> None:
    at, setting = layer(length, seed), ElasticCache(ratio=ratio, start_size=start)
    merged = Elastic(setting).compress_cache(at)
    stays, key, value = by_hand(at, setting)
    assert merged.index_BGS[0].tolist() == [stays] * 2
    torch.testing.assert_close(merged.key_BGSd[0].double(), key, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(merged.value_BGSd[0].double(), value, atol=1e-5, rtol=1e-5)


def test_the_ratio_is_the_share_that_goes() -> None:
    assert [budget(tokens, 0.2) for tokens in (0, 1, 4, 5, 9, 10, 100)] == [0, 1, 4, 4, 8, 8, 80]
    assert budget(7, 0.0) == 7
    assert budget(1000, 0.999) == 1


def test_the_least_important_go_and_the_first_and_the_last_stay() -> None:
    # One argsort of the candidates' scores is 2, 0, 3, 1: taken for ranks, it would keep places 1 and 3.
    score = torch.tensor([[0.0, 5.0, 9.0, 2.0, 7.0, 0.0]])
    stays, anchor = select(score, keep=4, start=1)
    assert stays[0].nonzero()[:, 0].tolist() == [0, 2, 4, 5]
    assert anchor[0].nonzero()[:, 0].tolist() == [2, 4]
    stays, anchor = select(score, keep=1, start=2)
    assert stays[0].nonzero()[:, 0].tolist() == [0, 1, 5]
    assert not anchor.any()
    assert select(score, keep=6, start=9)[0].all()


def test_of_equal_scores_the_earlier_entry_stays() -> None:
    stays, _ = select(torch.ones(2, 6), keep=4, start=1)
    assert [row.nonzero()[:, 0].tolist() for row in stays] == [[0, 1, 2, 5]] * 2


def test_entries_are_averaged_into_the_nearest_anchor() -> None:
    # Anchors stand at 3 and 7; 0 and 9 are protected and take nothing. 5 is as near to both.
    evict, anchor = torch.tensor([[1, 2, 4, 5, 6, 8]]), torch.tensor([[3, 7]])
    assert nearest(evict, anchor).tolist() == [[0, 0, 0, 0, 1, 1]]
    merged = merge(torch.arange(10.0)[None, None, :, None], evict, anchor)[0, 0, :, 0].tolist()
    assert merged[3] == (3 + 1 + 2 + 4 + 5) / 5
    assert merged[7] == (7 + 6 + 8) / 3
    assert merged[0] == 0
    assert merged[9] == 9


def test_an_anchor_is_the_mean_of_itself_and_all_that_it_takes() -> None:
    x = torch.tensor([[[[0.0]], [[1.0]]]]).repeat(1, 1, 4, 1)
    x[0, 0, :, 0] = torch.tensor([8.0, 1.0, 2.0, 6.0])
    assert merge(x, torch.tensor([[1, 2]]), torch.tensor([[3]]))[0, 0, 3, 0] == 3
    assert merge(x, torch.tensor([[1, 2]]), torch.empty(1, 0, dtype=torch.long)) is x


def test_all_heads_of_a_layer_keep_the_same_tokens(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [ElasticCache(ratio=0.5)]).trace
    for index in trace.kv_index:
        assert (index == index[:, :1]).all()
    assert any((index != trace.kv_index[0]).any() for index in trace.kv_index)  # layers choose for themselves


def test_entries_leave_at_the_fixed_point(lvlm: LVLM, device: str) -> None:
    setting = ElasticCache(ratio=0.5, start_size=2, distance=-5)
    begun = lvlm.begin(random_request(lvlm.config, max_new_tokens=40), [setting])
    with torch.inference_mode():
        held = lvlm.prefill(lvlm.prepare(begun), begun).cache
        before = held.held(0).index_BGS[0, 0].tolist()
        for token in range(12):
            lvlm.step(torch.tensor([token]), held)
            held.retain(torch.tensor([0], device=device))
    assert len(before) == 200
    # Each token pushes out the entry that then stands five before the end of the prompt's; the first 195 never leave.
    assert held.held(0).index_BGS[0, 0].tolist() == [*before[:195], *[*before, *range(400, 412)][207:]]


def test_the_place_counts_entries_and_spares_the_first_and_the_newest() -> None:
    visible = torch.tensor([[[False, False, True, True, True, True], [True] * 6]])
    stays = eliminate(visible, keep=3, point=1)
    assert [head.nonzero()[:, 0].tolist() for head in stays[0]] == [[2, 4, 5], [0, 4, 5]]
    far = eliminate(torch.ones(1, 1, 4, dtype=torch.bool), keep=2, point=99)
    assert far[0, 0].nonzero()[:, 0].tolist() == [0, 3]
    assert ElasticCache(distance=7).place(kept=90) == 7
    assert ElasticCache(distance=0).place(kept=90) == 90
    assert ElasticCache(start_size=4, distance=-25).place(kept=10) == 4


def test_the_cache_no_longer_grows(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=21), [ElasticCache(ratio=0.75)]).trace
    assert trace.kv_entries == trace.kv_most_entries == [100] * 4
    assert trace.probe_entries == 4 * 4 * 400 * 401 // 2
    assert trace.step_probe_entries == 0


def test_later_turns_push_out_as_many_entries_as_they_bring(lvlm: LVLM) -> None:
    stream = lvlm.stream([ElasticCache(ratio=0.5, start_size=1, distance=-2)])
    stream.ask(torch.arange(1, 21), 5)
    stream.ask(torch.arange(1, 9), 3)
    for layer_index in range(4):
        index = stream.cache.held(layer_index).index_BGS[0, 0].tolist()
        assert len(index) == 10
        assert index[0] == 0
        assert index[8:] == [34, 35]  # what stood before the fixed point is still of the first prompt
        assert all(place < 20 for place in index[:8])


def test_nothing_goes_at_a_ratio_of_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    plain, held = lvlm.run(request), lvlm.run(request, [ElasticCache(ratio=0.0)])
    assert torch.equal(held.logits_NC, plain.logits_NC)
    assert held.trace.probe_entries == 0


def test_rejected_drafts_push_nothing_out(lvlm: LVLM, device: str) -> None:
    request = random_request(lvlm.config, frames=1, max_new_tokens=16)
    draft = LVLM.random(seed=1, device=device)
    one, drafted = (
        lvlm.run(request, [ElasticCache(ratio=0.3), *beside]) for beside in ([], [SpeculativeSampling(3, draft)])
    )
    assert drafted.trace.kv_most_entries == one.trace.kv_most_entries


def test_entries_that_another_technique_evicted_before_are_refused() -> None:
    at = layer(30, 0)
    fewer = CacheTokens(0, 1, at.entries.keep(torch.arange(20).expand(1, 2, 20)), at.probe)
    with pytest.raises(Refusal, match="30 columns for 20 entries"):
        Elastic(ElasticCache()).compress_cache(fewer)


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ratio must lie in \[0, 1\), got 1"):
        ElasticCache(ratio=1.0)
    with pytest.raises(ValueError, match="start_size must be at least 0, got -1"):
        ElasticCache(start_size=-1)
