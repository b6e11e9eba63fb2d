"""Inf-MLLM."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheStep
from lvlm_atlas.reference.ops.places import places_of, take
from lvlm_atlas.reference.techniques.decoding.inf_mllm import InfMllm, Saddles, local_rows, relevance
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def step(index_GS: list[list[int]], weight_HRS: Tensor) -> CacheStep:
    """A context in which these entries are held and these rows were paid."""
    index = torch.tensor(index_GS)[None]
    held = Held(index < 0, index, index)
    return CacheStep(
        0, 4, held, weight_HRS.shape[1], lambda rows: weight_HRS[None, :, rows], lambda: (index, index), prompt=True
    )


def everywhere(score: Tensor) -> Tensor:
    return torch.ones_like(score, dtype=torch.bool)


def kept(at: CacheStep, saddles: Saddles) -> list[list[int]]:
    keep = saddles.evict(at)
    index = at.held.index_BGS
    return index[0].tolist() if keep is None else take(index, places_of(keep))[0].tolist()


def test_only_the_latest_queries_count() -> None:
    saddles = Saddles(InfMllm(recent=1, relevant=1, retrieval_window=2, bias=0.0))
    # Entry 0 has the largest sum of all rows, entry 1 that of the last two.
    rows = torch.tensor([[[1.0, 0, 0, 0], [0.9, 0.1, 0, 0], [0.2, 0.5, 0.3, 0], [0.1, 0.3, 0.2, 0.4]]])
    assert kept(step([[0, 1, 2, 3]], rows), saddles) == [[1, 3]]


def test_rows_follow_their_entries_through_evictions() -> None:
    saddles = Saddles(InfMllm(recent=1, relevant=2, retrieval_window=2, bias=0.0))
    rows = torch.tensor([[[0.0, 0.6, 0.3, 0.0], [0.0, 0.3, 0.3, 0.1]]])
    assert kept(step([[0, 1, 2, 3]], rows), saddles) == [[1, 2, 3]]
    # Of the last row before, entry 1 has 0.3, 2 has 0.3, 3 has 0.1; now they get 0.1, 0.2, 0.6.
    assert kept(step([[1, 2, 3, 4]], torch.tensor([[[0.1, 0.2, 0.6, 0.1]]])), saddles) == [[2, 3, 4]]
    torch.testing.assert_close(saddles.rows[0][0], torch.tensor([[[[0.3, 0.3, 0.1, 0.0], [0.1, 0.2, 0.6, 0.1]]]]))


def test_a_window_that_is_not_full_yet_has_the_rows_there_are() -> None:
    index = torch.arange(3)[None, None]
    first = local_rows(torch.ones(1, 1, 2, 3), 5, index)
    assert first.shape == (1, 1, 2, 3)
    later = torch.arange(4)[None, None]
    both = local_rows(torch.full((1, 1, 1, 4), 2.0), 5, later, (first, index))
    assert both[0, 0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [2, 2, 2, 2]]
    assert local_rows(torch.zeros(1, 1, 7, 4), 5, later, (first, index)).shape == (1, 1, 5, 4)


def test_recent_entries_stay_besides_the_relevant_ones() -> None:
    saddles = Saddles(InfMllm(recent=2, relevant=2, retrieval_window=1, bias=0.0))
    rows = torch.tensor([[[0.05, 0.1, 0.0, 0.02, 0.5, 0.33]], [[0.0, 0.1, 0.2, 0.1, 0.1, 0.5]]])
    assert kept(step([[0, 1, 2, 3, 4, 5]] * 2, rows), saddles) == [[0, 1, 4, 5], [1, 2, 4, 5]]


def test_the_bias_lets_newer_entries_take_over() -> None:
    rows = torch.tensor([[[[0.3, 0.0, 0.0, 0.2, 0.5]]]])
    plain, biased = (relevance(rows, bias, everywhere(rows[:, :, 0]))[0, 0] for bias in (0.0, 0.4))
    assert plain.tolist() == rows[0, 0, 0].tolist()
    torch.testing.assert_close(biased, torch.tensor([0.1, -0.1, 0.0, 0.3, 0.7]))
    assert plain[:4].argmax() == 0
    assert biased[:4].argmax() == 3


def test_padding_has_no_rank() -> None:
    visible = torch.tensor([[[False, False, True, True, True]]])
    score = relevance(torch.zeros(1, 1, 1, 5), 2.0, visible)
    assert score[0, 0].tolist() == [float("-inf")] * 2 + [-1, 0, 1]
    assert relevance(torch.zeros(1, 1, 1, 1), 2.0, torch.tensor([[[True]]])).tolist() == [[[-1.0]]]


@given(st.integers(1, 14), st.integers(1, 5), st.integers(0, 5), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_what_is_held_is_that_of_the_definition(
    length: int, recent: int, relevant: int, window: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    saddles = Saddles(InfMllm(recent, relevant, window, bias=0.3))
    held, paid, new, latest = [*range(length)], [], length, length - 1
    for _ in range(6):
        weight = torch.rand(2, new, len(held), generator=generator)
        paid += [dict(zip(held, row, strict=True)) for row in weight.mean(0).tolist()]
        ranks = {token: rank / max(1, len(held) - 1) - 0.5 for rank, token in enumerate(held)}
        score = {token: sum(row.get(token, 0) for row in paid[-window:]) + 0.3 * ranks[token] for token in held}
        older = held[: max(0, len(held) - recent)]
        best = sorted(older, key=lambda token: -score[token])[:relevant]
        expected = sorted(best) + held[len(older) :]
        assert kept(step([held], weight), saddles) == [expected]
        new = int(torch.randint(1, 4, (), generator=generator))
        held = [*expected, *range(latest + 1, latest + 1 + new)]
        latest += new


def test_the_cache_never_grows_beyond_its_size(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [InfMllm(40, 20, retrieval_window=4)]).trace
    assert trace.kv_entries == trace.kv_most_entries == [60] * 4
    assert trace.probe_entries == 4 * 4 * sum(range(397, 401))
    assert trace.step_probe_entries == 11 * 4 * 4 * 61
    for index in trace.kv_index:
        assert index[..., 20:].unique().tolist() == [*range(360, 400)]


@pytest.mark.parametrize("preset", ["tiny", "tiny-window"])
def test_no_position_exceeds_the_size_of_the_cache(preset: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lvlm = LVLM.random(preset, device=device)
    run = lvlm.begin(random_request(lvlm.config, max_new_tokens=40), [InfMllm(10, 10, retrieval_window=2)])
    most = []
    with torch.inference_mode():
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
        assert cache.in_cache is not None
        positions = cache.in_cache.positions

        def noted(*arguments: object) -> tuple[Tensor, Tensor]:
            found = positions(*arguments)  # type: ignore[arg-type]
            most.append(max(int(part.max()) for part in found))
            return found

        monkeypatch.setattr(cache.in_cache, "positions", noted)
        for token in range(30):
            lvlm.step(torch.tensor([token]), cache)
            cache.retain(torch.tensor([0], device=device))
    assert most
    assert max(most[-8:]) <= 22


def test_room_for_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    plain, held = lvlm.run(request), lvlm.run(request, [InfMllm(recent=1, relevant=500)])
    torch.testing.assert_close(held.logits_NC, plain.logits_NC, atol=1e-5, rtol=1e-5)
    assert held.trace.kv_most_entries == plain.trace.kv_most_entries


def test_rejected_drafts_leave_no_row(lvlm: LVLM, device: str) -> None:
    draft = LVLM.random(seed=1, device=device)
    request = random_request(lvlm.config, frames=1, temperature=1.0, seed=3)
    run = lvlm.begin(request, [InfMllm(30, 10, retrieval_window=3), SpeculativeSampling(gamma=3, draft=draft)])
    with torch.inference_mode():
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
        (saddles,) = run.acts.at("cache-step")
        before = [saddles.rows[layer][0].clone() for layer in range(4)]
        lvlm.step(torch.tensor([5, 6, 7]), cache)
        cache.retain(torch.tensor([0], device=device))
    for layer, rows in enumerate(before):
        now = saddles.rows[layer][0]
        assert now.shape[2] == 3
        torch.testing.assert_close(now.sum(-1)[:, :, -1], torch.ones(1, 2, device=device))
        assert (now.sum(-1)[:, :, :-1] <= rows.sum(-1)[:, :, 1:] + 1e-5).all()


def test_arguments_out_of_range_are_refused() -> None:
    for name, value in (("recent", 0), ("relevant", -1), ("retrieval_window", 0), ("bias", -0.1)):
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            InfMllm(**{name: value})  # type: ignore[arg-type]


def test_heads_of_different_numbers_are_refused() -> None:
    at = step([[0, 1, 2], [0, 1, 2]], torch.rand(2, 1, 3))
    uneven = replace(at, held=replace(at.held, real_BGS=torch.tensor([[[False, True, True], [True, True, True]]])))
    with pytest.raises(Refusal, match="those of layer 0 hold different numbers"):
        Saddles(InfMllm()).evict(uneven)
