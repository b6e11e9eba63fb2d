"""SnapKV."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.snapkv import SnapKV, select, votes


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def randn(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def layer(length: int, heads: int = 4, groups: int = 2, seed: int = 0, device: str = "cpu") -> CacheTokens:
    query, key, value = (
        randn(1, count, length, 8, seed=seed + i, device=device) for i, count in enumerate((heads, groups, groups))
    )
    place = torch.arange(length, device=device).expand(1, groups, length)
    return CacheTokens(0, 1, Entries(key, value, place < 0, place), Probe(query, key, causal=True))


def kept_by_hand(at: CacheTokens, technique: SnapKV) -> list[set[int]]:
    """The kept places of each head, from the definition, number by number."""
    query, key = at.probe.query_BHNd[0].double(), at.entries.key_BGSd[0].double()
    groups, length = key.shape[:2]
    window, reach = technique.window_size, technique.kernel_size // 2
    kept = []
    for group in range(groups):
        each = []
        for head in range(len(query) // groups * group, len(query) // groups * (group + 1)):
            vote = torch.zeros(length - window, dtype=torch.double)
            for row in range(length - window, length):
                logit = (key[group, : row + 1] @ query[head, row] / query.shape[-1] ** 0.5).cpu()
                vote += logit.softmax(-1)[: length - window]
            each.append(vote)
        vote = torch.stack(each)
        vote = vote.mean(0) if technique.group == "mean" else vote.amax(0)
        around = [vote[max(0, i - reach) : i + reach + 1] for i in range(len(vote))]
        if technique.pooling == "avgpool":
            pooled = [float(near.sum()) / technique.kernel_size for near in around]
        else:
            pooled = [float(near.max()) for near in around]
        best = sorted(range(len(pooled)), key=lambda i: (-pooled[i], i))
        kept.append({*best[: technique.max_capacity_prompt - window], *range(length - window, length)})
    return kept


@given(
    st.integers(1, 6), st.integers(1, 20), st.integers(0, 40), st.sampled_from([1, 3, 5, 7]),
    st.sampled_from(["avgpool", "maxpool"]), st.sampled_from(["mean", "max"]), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_the_kept_entries_are_those_of_the_definition(
    window: int, more: int, longer: int, kernel: int, pooling: str, group: str, seed: int
) -> None:
    technique = SnapKV(window, window + more, kernel, pooling, group)
    at = layer(window + more + longer, seed=seed)
    kept = technique.compress_cache(at)
    assert [{*head.tolist()} for head in kept.index_BGS[0]] == kept_by_hand(at, technique)
    assert (kept.index_BGS.diff(dim=-1) > 0).all()
    assert torch.equal(kept.value_BGSd[0, 1], at.entries.value_BGSd[0, 1, kept.index_BGS[0, 1]])


def test_the_window_is_part_of_the_capacity(device: str) -> None:
    kept = SnapKV(window_size=8, max_capacity_prompt=20).compress_cache(layer(50, device=device))
    assert kept.index_BGS.shape == (1, 2, 20)
    assert kept.index_BGS[..., -8:].flatten().tolist() == [*range(42, 50)] * 2


def test_the_window_takes_its_part_of_the_softmax_before_it_is_cut_off(device: str) -> None:
    # The first row pays nearly all to the window itself: its taste for entry 0 counts less than the second's for 1.
    weight = torch.tensor([[[[0.029, 0.001, 0.0, 0.97, 0.0], [0.1, 0.3, 0.1, 0.25, 0.25]]]], device=device)
    vote = votes(weight, 1, 1, "mean", "mean")
    assert vote.shape == (1, 1, 3)
    assert select(vote, 1, 2).tolist() == [[[1, 3, 4]]]
    alone = weight[..., :3] / weight[..., :3].sum(-1, keepdim=True)
    assert alone.sum(2).argmax() == 0  # what a softmax over the entries before the window alone would keep


def test_the_window_does_not_look_ahead() -> None:
    at = layer(12, heads=2)
    rows = at.probe.rows(slice(-3, None))
    assert rows[..., 0, 10:].sum() == 0
    torch.testing.assert_close(rows.sum(-1), torch.ones(1, 2, 3))


@pytest.mark.parametrize("pooling", ["avgpool", "maxpool"])
def test_neighbours_of_an_entry_with_many_votes_are_kept_with_it(pooling: str, device: str) -> None:
    weight = torch.full((1, 1, 2, 42), 0.001, device=device)
    weight[..., 20] = 0.5
    weight[..., 5] = weight[..., 33] = 0.004
    how = "mean" if pooling == "avgpool" else "max"
    assert select(votes(weight, 1, 3, how, "mean"), 3, 2)[0, 0].tolist() == [19, 20, 21, 40, 41]
    assert select(votes(weight, 1, 1, how, "mean"), 3, 2)[0, 0].tolist() == [5, 20, 33, 40, 41]


def test_query_heads_of_a_group_vote_by_mean_or_by_maximum(device: str) -> None:
    weight = torch.tensor([[[[0.9, 0.4, 0.0]], [[0.0, 0.6, 0.0]]]], device=device)
    assert votes(weight, 1, 1, "mean", "mean").argmax() == 1
    assert votes(weight, 1, 1, "mean", "max").argmax() == 0
    assert votes(weight, 2, 1, "mean", "mean").argmax(-1).tolist() == [[0, 1]]


def test_of_equal_votes_the_earlier_entry_is_kept(device: str) -> None:
    vote = torch.tensor([[[1.0, 2.0, 1.0, 2.0, 1.0]]], device=device)
    assert select(vote, 3, 1).tolist() == [[[0, 1, 3, 5]]]


@pytest.mark.parametrize(("length", "kept"), [(19, 19), (20, 20), (21, 20), (60, 20)])
def test_a_prompt_below_the_capacity_is_left_alone(length: int, kept: int, device: str) -> None:
    at = layer(length, device=device)
    entries = SnapKV(window_size=5, max_capacity_prompt=20).compress_cache(at)
    assert entries.key_BGSd.shape[2] == kept
    assert (entries is at.entries) == (length < 20)


def test_each_head_chooses_for_itself(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [SnapKV(window_size=8, max_capacity_prompt=60)]).trace
    assert all((index[0, 0] != index[0, 1]).any() for index in trace.kv_index)


def test_decoding_goes_on_at_the_true_length_and_adds_entries(lvlm: LVLM) -> None:
    technique = SnapKV(window_size=8, max_capacity_prompt=60)
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config), [technique])
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
    assert (cache.next_position == 400).all()
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=12), [technique]).trace
    assert trace.llm_tokens == [400] * 4
    assert trace.kv_entries == [60] * 4
    assert trace.kv_most_entries == [71] * 4
    assert trace.probe_entries == 4 * 4 * sum(range(393, 401))  # eight rows of four layers and heads


@torch.inference_mode()
def test_a_chunk_behind_a_cache_is_cut_down_by_itself(lvlm: LVLM, device: str) -> None:
    run = lvlm.begin(random_request(lvlm.config, frames=1), [SnapKV(window_size=4, max_capacity_prompt=20)])
    inputs, cache = lvlm.prepare(run), None
    for start, end in ((0, 50), (50, 80)):
        part = inputs.keep(torch.arange(start, end, device=device)[None])
        cache = lvlm.prefill(part, run, cache).cache
    assert run.trace.kv_entries == [40] * 4
    for index in run.trace.kv_index:
        assert {*range(46, 50), *range(76, 80)} <= {*index[0, 0].tolist()}


def test_entries_that_another_technique_evicted_before_are_refused(device: str) -> None:
    at = layer(50, device=device)
    fewer = at.entries.keep(torch.arange(40, device=device).expand(1, 2, 40))
    with pytest.raises(Refusal, match="50 columns for 40 entries"):
        SnapKV(window_size=8, max_capacity_prompt=20).compress_cache(CacheTokens(0, 1, fewer, at.probe))


def test_arguments_out_of_range_are_refused() -> None:
    for error, match, arguments in (
        (ValueError, "window_size must be at least 1, got 0", {"window_size": 0}),
        (Refusal, "kernel_size must be odd and at least 1, got 4", {"kernel_size": 4}),
        (Refusal, "max_capacity_prompt must exceed window_size 32, got 32", {"max_capacity_prompt": 32}),
        (ValueError, "pooling must be one of avgpool, maxpool, got 'sum'", {"pooling": "sum"}),
        (ValueError, "group must be one of mean, max, got 'sum'", {"group": "sum"}),
    ):
        with pytest.raises(error, match=match):
            SnapKV(**arguments)  # type: ignore[arg-type]
