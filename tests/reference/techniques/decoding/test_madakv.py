"""MadaKV."""

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
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.ops.scores import windowed_attention
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.madakv import (
    Budget,
    MadaKV,
    compensated,
    modality_budgets,
    needed,
    select,
)

PROMPT = [False] * 4 + [True] * 30 + [False] * 16


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def layer(number: int, layers: int, vision: list[bool], sharpness: float = 1.0, seed: int = 0) -> CacheTokens:
    length = len(vision)
    generator = torch.Generator().manual_seed(seed + 10 * number)
    query, key, value = (torch.randn(1, count, length, 8, generator=generator) for count in (4, 2, 2))
    place = torch.arange(length).expand(1, 2, length)
    entries = Entries(key, value, torch.tensor(vision).expand(1, 2, length), place)
    return CacheTokens(number, layers, entries, Probe(query * sharpness, key, causal=True))


def kept(technique: MadaKV, layers: int, vision: list[bool], sharpness: float = 1.0) -> list[Tensor]:
    """Which tokens each head of each layer keeps, (G, K) a layer."""
    budget = Budget(technique)
    return [budget.compress_cache(layer(each, layers, vision, sharpness)).index_BGS[0] for each in range(layers)]


def test_modalities_share_a_heads_budget_as_it_attends_to_them() -> None:
    weight = torch.tensor([[[0.6, 0.2], [0.1, 0.9], [0.0, 1.0], [0.9, 0.1]]])
    held = torch.tensor([[[30, 10]] * 4])
    # 9 and 3 of 12; 1.2 and 10.8, but 10 are all; none and all, but one at least and 10; 10.8 and 1.2.
    assert modality_budgets(weight, held, 12).tolist() == [[[9, 3], [2, 10], [2, 10], [11, 1]]]
    assert modality_budgets(weight, held, 1).tolist() == [[[1, 0], [0, 1], [0, 1], [1, 0]]]
    assert modality_budgets(weight, torch.tensor([[[30, 0]] * 4]), 12).tolist() == [[[12, 0]] * 4]


@given(st.integers(1, 12), st.integers(1, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_budgets_add_up_within_what_there_is(vision: int, text: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, vision + text))
    weight = torch.tensor([[[data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1))]]])
    one, two = modality_budgets(weight, torch.tensor([[[vision, text]]]), keep)[0, 0].tolist()
    assert one + two == keep
    assert 0 <= one <= vision
    assert 0 <= two <= text
    if keep > 1:
        assert min(one, two) >= 1
    if bool(weight.any()):
        exact = float(weight[0, 0, 0].double() / weight.double().sum()) * keep
        low, high = max(int(keep > 1), keep - text), min(vision, keep - int(keep > 1))
        assert abs(one - min(max(exact, low), high)) < 1


def test_each_head_keeps_the_best_of_each_modality() -> None:
    score = torch.tensor([[[9.0, 8, 7, 1, 2, 3], [1, 1, 1, 6, 5, 1]]])
    vision = torch.tensor([True, True, True, False, False, False]).expand(1, 2, 6)
    # 24 : 6 of 5 is 4 : 1, but vision has three; 3 : 12 of 5 is 1 : 4, but text has three.
    assert select(score, vision, 5, 2).tolist() == [[[0, 1, 2, 4, 5, 6, 7], [0, 1, 3, 4, 5, 6, 7]]]
    assert select(score, vision, 2, 1).tolist() == [[[0, 5, 6], [0, 3, 6]]]


def test_entries_without_a_score_are_of_their_own_modality() -> None:
    score, vision = torch.zeros(1, 1, 4), torch.tensor([[[False, True, False, True]]])
    assert select(score, vision, 2, 0).tolist() == [[[0, 1]]]


def test_a_layer_needs_the_fewest_entries_that_hold_the_mass_of_each_modality() -> None:
    score = torch.tensor([[[5.0, 3, 1, 1, 10, 10]]])
    vision = torch.tensor([[[True, True, True, True, False, False]]])
    assert needed(score, vision, 0.8).item() == 2 + 2  # 8 of 10, and both of 20
    assert needed(score, vision, 0.5).item() == 1 + 1
    assert needed(score, vision, 1.0).item() == 6
    assert needed(score, vision, 0.0).item() == 0


def test_what_a_layer_needs_too_much_those_that_follow_give() -> None:
    assert compensated(0.2, 0.5, 3) == pytest.approx(0.1)
    assert compensated(0.2, 0.05, 3) == pytest.approx(0.25)
    assert compensated(0.2, 0.2, 3) == 0.2
    assert compensated(0.2, 0.9, 1) == 0
    assert compensated(0.2, 0.9, 0) == 0.2


def test_as_printed_a_layer_keeps_its_budget_and_not_its_need() -> None:
    counts = [index.shape[1] for index in kept(MadaKV(0.4, 0.5, proxy=4), 4, PROMPT)]
    share, expected = 0.4, []
    for number in range(4):
        at = layer(number, 4, PROMPT)
        expected.append(max(5, int(share * 50 + 1e-9)))
        score = windowed_attention(at.probe.rows(slice(-4, None)), 2)
        need = (needed(score, at.entries.vision_BGS[..., :46], 0.5).double().mean().item() + 4) / 50
        share = max(0.0, share - (need - share) / (3 - number)) if number < 3 else share
    assert counts == expected
    assert counts[0] == 20
    assert len({*counts}) > 1


@given(st.floats(0.12, 0.9), st.floats(0, 1), st.integers(1, 6), st.floats(0.2, 6))
@settings(max_examples=25, deadline=None)
def test_where_needs_are_granted_all_layers_keep_the_budget(
    share: float, mass: float, layers: int, sharpness: float
) -> None:
    counts = [index.shape[1] for index in kept(MadaKV(share, mass, proxy=4, grant=True), layers, PROMPT, sharpness)]
    assert all(5 <= count <= 50 for count in counts)
    asked = int(share * layers * 50 + 1e-6)
    assert sum(counts) == asked or counts[-1] == 50, "only the last cannot keep more than there is"
    assert sum(counts) <= max(asked, 5 * layers)


def test_without_steps_to_compensate_all_is_kept() -> None:
    at = layer(0, 1, PROMPT)
    assert Budget(MadaKV(1.0)).compress_cache(at) is at.entries
    short = layer(0, 1, PROMPT[:6])
    assert Budget(MadaKV(0.1, proxy=6)).compress_cache(short) is short.entries


def test_a_run_begins_with_the_budget_of_the_first_layer_whatever_was_before() -> None:
    budget = Budget(MadaKV(0.4, 0.9, proxy=4))
    first = [budget.compress_cache(layer(each, 3, PROMPT)).index_BGS.shape[2] for each in range(3)]
    again = [budget.compress_cache(layer(each, 3, PROMPT)).index_BGS.shape[2] for each in range(3)]
    assert first == again


def test_heads_of_a_layer_keep_equally_many_but_not_of_each_modality(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [MadaKV(mass=0.3)]).trace
    assert trace.kv_entries == [index.shape[2] for index in trace.kv_index]
    assert trace.kv_most_entries == [count + 11 for count in trace.kv_entries]
    assert trace.probe_entries == 4 * 4 * sum(range(393, 401))
    for index in trace.kv_index:
        assert index[..., -8:].unique().tolist() == [*range(392, 400)]
    assert any((index[0, 0] != index[0, 1]).any() for index in trace.kv_index)


def test_entries_that_another_technique_evicted_before_are_refused() -> None:
    at = layer(0, 1, PROMPT)
    fewer = at.entries.keep(torch.arange(40).expand(1, 2, 40))
    with pytest.raises(Refusal, match="50 columns for 40 entries; put MadaKV before"):
        Budget(MadaKV()).compress_cache(replace(at, entries=fewer))


def test_arguments_out_of_range_are_refused() -> None:
    for match, arguments in (
        (r"kept_share must lie in \(0, 1\], got 0.0", {"kept_share": 0.0}),
        (r"mass must lie in \[0, 1\], got 1.5", {"mass": 1.5}),
        ("proxy must be at least 1, got 0", {"proxy": 0}),
    ):
        with pytest.raises(ValueError, match=match):
            MadaKV(**arguments)  # type: ignore[arg-type]
