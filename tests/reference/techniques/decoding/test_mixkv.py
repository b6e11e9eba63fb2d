"""MixKV."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.adakv import AdaKV
from lvlm_atlas.reference.techniques.decoding.mixkv import MixKV, distance, mix, redundancy, scaled_to
from lvlm_atlas.reference.techniques.decoding.pyramidkv import PyramidKV
from lvlm_atlas.reference.techniques.decoding.snapkv import votes


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(length: int, seed: int = 0, pull: float = 0.0) -> CacheTokens:
    """A layer of two key-value heads, whose keys are drawn towards one direction."""
    query, key, value = (randn(1, count, length, 8, seed=seed + i) for i, count in enumerate((4, 2, 2)))
    place = torch.arange(length).expand(1, 2, length)
    key = key + pull * torch.tensor([1.0, 0.3])[None, :, None, None]
    return CacheTokens(0, 1, Entries(key, value, place < 0, place), Probe(query, key, causal=True))


@given(st.integers(2, 12), st.floats(0, 3), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_redundancy_is_the_mean_cosine_of_all_pairs_of_different_keys(length: int, pull: float, seed: int) -> None:
    key = layer(length, seed, pull).entries.key_BGSd
    for head in range(2):
        pairs = [functional.cosine_similarity(a, b, dim=0) for a, b in combinations(key[0, head], 2)]
        assert float(redundancy(key)[0, head]) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-5)


def test_equal_keys_are_wholly_redundant_whatever_their_length() -> None:
    key = torch.tensor([1.0, 2, 0, 0]) * torch.tensor([1.0, 3, 7])[:, None]
    assert redundancy(key[None, None]).item() == pytest.approx(1)
    opposite = torch.tensor([[1.0, 0], [-2, 0]])
    assert redundancy(opposite[None, None]).item() == pytest.approx(-1)


def test_the_farther_from_the_mean_direction_of_all_keys_the_more_diverse() -> None:
    key = torch.tensor([[[[4.0, 0], [0, 1], [1, 1], [1, 0]]]])  # mean of unit keys: (0.677, 0.427)
    mean = torch.tensor([(1 + 0 + 0.5**0.5 + 1) / 4, (0 + 1 + 0.5**0.5 + 0) / 4])
    expected = [-float(mean[0]), -float(mean[1]), -float(mean.sum()) * 0.5**0.5]
    assert distance(key, 3)[0, 0].tolist() == pytest.approx(expected)
    assert distance(key, 3).argmax() == 1


def test_scores_are_brought_to_the_mean_of_the_votes() -> None:
    score, vote = torch.tensor([[[2.0, 6, 4, 2]]]), torch.tensor([[[0.1, 0.2, 0.3, 0.2]]])
    # 0, 1, 0.5, 0 of mean 0.375, to the mean 0.2
    assert scaled_to(score, vote)[0, 0].tolist() == pytest.approx([0, 0.2 / 0.375, 0.1 / 0.375, 0])
    assert scaled_to(torch.full((1, 1, 4), 3.0), vote).tolist() == [[[0, 0, 0, 0]]]


def test_the_mixture_by_hand() -> None:
    vote = torch.tensor([[[0.2, 0.1]]])
    key = torch.tensor([[[[1.0, 0], [0, 1], [1, 0]]]])
    value = torch.tensor([[[[3.0, 4], [0, 1], [0, 0]]]])
    # One of three pairs of keys is alike: r = 1/3. Unit keys have the mean (2/3, 1/3): the second is the diverse one,
    # the first has the longer value; either scale has the mean 0.5, brought to 0.15.
    assert mix(vote, key, value)[0, 0].tolist() == pytest.approx([2 / 3 * 0.5, 2 / 3 * 0.1 + 1 / 3 * 0.3])


def test_near_duplicates_are_thinned_where_a_head_is_redundant() -> None:
    key = torch.tensor([1.0, 0, 0]).repeat(20, 1) + 0.02 * randn(20, 3)
    key[5] = torch.tensor([0.0, 1, 0])
    key[11] = torch.tensor([0.0, 0, 1])
    vote = torch.linspace(1.2, 0.8, 16)[None, None]
    value = torch.ones(1, 1, 20, 3)
    best = mix(vote, key[None, None], value).argsort(descending=True)[0, 0, :2].tolist()
    assert sorted(best) == [5, 11]
    assert vote.argsort(descending=True)[0, 0, :2].tolist() == [0, 1]


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 30), st.floats(0, 2), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_kept_entries_are_those_of_the_definition(
    window: int, base: int, longer: int, pull: float, seed: int
) -> None:
    at = layer(window + base + longer, seed, pull)
    before = base + longer
    kept = MixKV(window, window + base, kernel_size=3).compress_cache(at)
    vote = votes(at.probe.rows(slice(-window, None)), 2, 3, "mean", "mean")[0].double()

    def scaled(score: Tensor, by: Tensor) -> Tensor:
        spread = score.max() - score.min()
        unit = (score - score.min()) / spread if spread else torch.zeros_like(score)
        return unit * by.mean() / (unit.mean() + 1e-8)

    for head in range(2):
        key, value = (x[0, head].double() for x in (at.entries.key_BGSd, at.entries.value_BGSd))
        unit = key / key.norm(dim=-1, keepdim=True)
        cosine = unit @ unit.T
        share = (cosine.sum() - cosine.trace()) / (len(key) * (len(key) - 1))
        diverse = scaled(-(unit[:before] @ unit.mean(0)), vote[head])
        score = share * diverse + (1 - share) * (vote[head] + scaled(value[:before].norm(dim=-1), vote[head]))
        got = kept.index_BGS[0, head]
        assert got[base:].tolist() == [*range(before, before + window)]
        torch.testing.assert_close(score[got[:base]].sum(), score.topk(base).values.sum(), atol=1e-5, rtol=1e-5)


def test_budgets_are_those_of_the_method_below(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)

    def index(technique: object) -> list[Tensor]:
        return lvlm.run(request, [technique]).trace.kv_index  # type: ignore[list-item]

    plain = lvlm.run(request, [MixKV(8, 40)]).trace
    assert plain.kv_entries == [40] * 4
    assert plain.probe_entries == 4 * 4 * sum(range(393, 401))
    pyramid = lvlm.run(request, [MixKV(8, 40, pyramid=True, beta=4)]).trace
    assert pyramid.kv_entries == lvlm.run(request, [PyramidKV(8, 40, beta=4)]).trace.kv_entries
    mixed = index(MixKV(8, 40, adaptive=True))
    ada = index(AdaKV(8, 40, kernel_size=5, pooling="avgpool"))
    counts = [[(head >= 0).sum().item() for head in layer[0]] for layer in mixed]
    assert counts == [[(head >= 0).sum().item() for head in layer[0]] for layer in ada], "votes alone share the budget"
    assert len({count for layer in counts for count in layer}) > 1
    assert any(not torch.equal(one, two) for one, two in zip(mixed, ada, strict=True))


@pytest.mark.parametrize(("length", "kept"), [(19, 19), (20, 20), (60, 20)])
def test_a_prompt_below_the_capacity_is_left_alone(length: int, kept: int) -> None:
    at = layer(length)
    entries = MixKV(window_size=5, max_capacity_prompt=20).compress_cache(at)
    assert entries.key_BGSd.shape[2] == kept
    assert (entries is at.entries) == (length < 20)


def test_entries_that_another_technique_evicted_before_are_refused() -> None:
    at = layer(50)
    fewer = at.entries.keep(torch.arange(40).expand(1, 2, 40))
    with pytest.raises(Refusal, match="50 columns for 40 entries; put MixKV before"):
        MixKV(window_size=8, max_capacity_prompt=20).compress_cache(replace(at, entries=fewer))


def test_arguments_out_of_range_are_refused() -> None:
    for error, match, arguments in (
        (ValueError, r"floor_alpha must lie in \[0, 1\], got 1.5", {"floor_alpha": 1.5}),
        (ValueError, "beta must be at least 1, got 0", {"beta": 0}),
        (Refusal, "max_capacity_prompt must exceed window_size 32, got 32", {"max_capacity_prompt": 32}),
    ):
        with pytest.raises(error, match=match):
            MixKV(**arguments)  # type: ignore[arg-type]
