"""LiveVLM."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.techniques.decoding.livevlm import LiveVlm, Memory, bucketed, page_scores, pages_read
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def memory_of(stream: Any) -> Memory:
    (memory,) = stream._run.acts.at("cache-read")
    return cast("Memory", memory)


def fed(lvlm: LVLM, setting: LiveVlm, rounds: int) -> Any:
    """A session that has seen so many frames, a round each, behind four words."""
    stream = lvlm.stream([setting])
    generator = torch.Generator().manual_seed(0)
    stream.ask(torch.arange(1, 5), 1)
    for _ in range(rounds):
        stream.see(torch.randn(1, 3, *lvlm.config.frame_size, generator=generator))
    return stream


def vision(stream: Any, layer: int) -> list[int]:
    """Which vision tokens a layer holds."""
    held = stream.cache.held(layer)
    return cast("list[int]", held.index_BGS[0, 0][held.vision_BGS[0, 0]].tolist())


def by_hand(score: list[float], keep: int, capacity: int, forced: int) -> list[int]:
    """What the rule keeps, place by place."""
    order = sorted(range(len(score)), key=lambda place: -score[place])
    buckets = -(-keep // capacity)
    taken, kept = [0] * buckets, []
    for number, place in enumerate(order):
        bucket = place * buckets // len(score)
        if number < forced or taken[bucket] < capacity:
            taken[bucket] += 1
            kept.append(place)
    kept += [place for place in order if place not in kept]
    return sorted(kept[:keep])


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 5), st.integers(0, 9), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_what_is_kept_is_that_of_the_definition(places: int, keep: int, capacity: int, forced: int, seed: int) -> None:
    score = torch.rand(2, places, generator=torch.Generator().manual_seed(seed))
    kept = bucketed(score, keep, capacity, forced)
    for row, kept_row in zip(score.tolist(), kept.tolist(), strict=True):
        expected = by_hand(row, keep, capacity, forced) if 0 < keep < places else [*range(min(keep, places))]
        assert kept_row == expected


def test_the_memory_is_spread_over_time() -> None:
    score = torch.tensor([[9.0, 8, 7, 6, 1, 0, 2, 0]])
    assert bucketed(score, 4, 1, 0).tolist() == [[0, 2, 4, 6]]
    assert bucketed(score, 4, 2, 0).tolist() == [[0, 1, 4, 6]]
    assert bucketed(score, 4, 4, 0).tolist() == [[0, 1, 2, 3]]  # one bucket: by score alone


def test_forced_entries_take_the_room_of_their_bucket() -> None:
    score = torch.tensor([[9.0, 8, 1, 0, 3, 0, 2, 7]])
    # Two buckets of two; the three best are 0, 1 and 7. With 2 as well the first bucket would have three.
    assert bucketed(score, 4, 2, 3).tolist() == [[0, 1, 4, 7]]
    assert bucketed(torch.tensor([[9.0, 8, 7, 0, 3, 0, 2, 0]]), 4, 2, 3).tolist() == [[0, 1, 2, 4]]


def test_a_page_stands_at_the_mean_of_its_keys_before_rotary() -> None:
    key = torch.tensor([[[[2.0, 0], [4, 0], [0, 1], [0, 3], [5, 5]], [[0.0, 0]] * 5]])
    query = torch.tensor([[[1.0, 0], [1, 2], [7, 7], [7, 7]]])
    # The mean query of the first group is (1, 1); the second group's keys are nothing.
    assert page_scores(query, key, 2).tolist() == [[1.5, 1.0, 5.0]]


def test_a_page_scores_the_same_whatever_its_age(lvlm: LVLM, device: str) -> None:
    stream = lvlm.stream([LiveVlm(memory_budget=128, short_term=64)])
    stream.ask(torch.arange(1, 5), 1)
    pixels = torch.randn(1, 3, *lvlm.config.frame_size, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        stream.see(pixels)
    key = stream.cache.stores[0].read()[0][:, :, 5:133]  # of the first layer, where nothing has been attended to yet
    score = page_scores(torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(1)).to(device), key, 64)
    torch.testing.assert_close(score[0, 0], score[0, 1])


@pytest.mark.parametrize(("pages", "ratio", "read"), [(0, 0.4, 0), (1, 0.4, 1), (2, 0.1, 1), (10, 0.4, 4), (7, 1.0, 7)])
def test_a_share_of_the_pages_is_read(pages: int, ratio: float, read: int) -> None:
    assert pages_read(pages, ratio) == read


def test_the_memory_is_of_fixed_size_and_the_newest_are_whole(lvlm: LVLM) -> None:
    stream = fed(lvlm, LiveVlm(memory_budget=48, short_term=64, recent_queries=8), rounds=7)
    newest = 5 + 7 * 64
    for layer in range(4):
        held = vision(stream, layer)
        assert len(held) == 112
        assert held[48:] == [*range(newest - 64, newest)]
        assert held == sorted(held)
    assert stream.rounds[-1].probe_entries == 4 * 4 * sum(range(117 + 57, 117 + 65))


def test_entries_are_scored_by_the_last_vision_tokens(lvlm: LVLM) -> None:
    """Held against a session that cuts nothing, whose attention of the same tokens is formed by hand."""
    setting = LiveVlm(memory_budget=20, short_term=64, recent_queries=3, bucket_capacity=20)
    stream, whole = fed(lvlm, setting, 2), fed(lvlm, LiveVlm(memory_budget=64, short_term=64, recent_queries=3), 2)
    key = whole.cache.stores[0].read()[0][0, :, :133]
    assert torch.equal(stream.cache.stores[0].read()[0][0, :, -64:], key[:, -64:])
    kept = vision(stream, 0)[:20]
    assert all(5 <= token < 69 for token in kept)
    assert kept != [*range(5, 25)]


def test_the_memory_does_not_depend_on_the_question(lvlm: LVLM) -> None:
    def held_after(words: Tensor) -> list[list[int]]:
        stream = fed(lvlm, LiveVlm(memory_budget=30, short_term=20), 3)
        stream.ask(words, 2)
        return [vision(stream, layer) for layer in range(4)]

    assert held_after(torch.arange(1, 9)) == held_after(torch.arange(40, 50))


def test_another_question_reads_other_pages(lvlm: LVLM) -> None:
    stream = fed(lvlm, LiveVlm(memory_budget=96, short_term=32, page_size=8, page_ratio=0.25), 4)
    unread = []
    for words in ([7, 8, 9], [30, 20, 41, 77], [7, 8, 9]):
        stream.ask(torch.tensor(words), 2, keep=False)
        stream.ask(torch.tensor(words), 2)
        unread.append([memory_of(stream).unread[layer][0, 0].tolist() for layer in range(4)])
    assert all(len(tokens) == 72 for layers in unread for tokens in layers)
    assert unread[0] != unread[1]
    assert [len(vision(stream, layer)) for layer in range(4)] == [128] * 4


def test_text_and_the_newest_frames_are_always_read(lvlm: LVLM, device: str) -> None:
    stream = fed(lvlm, LiveVlm(memory_budget=64, short_term=40, page_size=16, page_ratio=0.5), 3)
    stream.ask(torch.tensor([3, 4, 5]), 4)
    for layer in range(4):
        with torch.inference_mode():
            reading = stream.cache.read(layer, torch.zeros(1, 4, 1, 16, device=device))
        held = reading.held()
        read = held.index_BGS[0, 0][held.vision_BGS[0, 0]].tolist()
        assert read[-40:] == vision(stream, layer)[-40:]
        assert len(read) == 32 + 40
        assert int((~held.vision_BGS[0, 0]).sum()) == 5 + 3 + 4
    assert stream.rounds[-1].kv_read == pytest.approx([sum((72 + 8 + new) / (104 + 8 + new) for new in (1, 2, 3))] * 4)


def test_what_came_with_the_frames_is_asked_by_the_first_token_of_the_answer(lvlm: LVLM) -> None:
    setting = LiveVlm(memory_budget=40, short_term=16, page_size=8, page_ratio=0.4)
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=2), [setting]).trace
    assert trace.kv_entries == [56 + 16] * 4
    assert trace.kv_read == pytest.approx([(16 + 16 + 16 + 1) / 73] * 4)


def test_room_for_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    plain, held = lvlm.run(request), lvlm.run(request, [LiveVlm()])
    torch.testing.assert_close(held.logits_NC, plain.logits_NC, atol=1e-5, rtol=1e-5)
    assert held.trace.kv_read == plain.trace.kv_read
    assert held.trace.probe_entries == 0


def test_drafted_tokens_are_read_besides(lvlm: LVLM, device: str) -> None:
    request = random_request(lvlm.config)
    setting, draft = LiveVlm(40, 16, page_size=8), SpeculativeSampling(3, LVLM.random(seed=1, device=device))
    one, drafted = lvlm.run(request, [setting]), lvlm.run(request, [setting, draft])
    assert one.trace.kv_entries == drafted.trace.kv_entries
    assert one.trace.kv_most_entries == drafted.trace.kv_most_entries


def test_arguments_out_of_range_are_refused() -> None:
    for name in ("recent_queries", "bucket_capacity", "page_size"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            LiveVlm(**{name: 0})  # type: ignore[arg-type]
    for name in ("memory_budget", "short_term", "forced"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
            LiveVlm(**{name: -1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"page_ratio must lie in \(0, 1\], got 0"):
        LiveVlm(page_ratio=0.0)
