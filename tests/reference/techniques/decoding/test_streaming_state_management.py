"""Streaming state management."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.caches.reading import Reading
from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheStep
from lvlm_atlas.reference.ops.selection import rank_in_group
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling
from lvlm_atlas.reference.techniques.decoding.streaming_state_management import (
    State,
    StreamingStateManagement,
    forgetting,
    held_of_frames,
)
from lvlm_atlas.reference.techniques.decoding.streamingllm import StreamingLlm


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def state_of(stream: Any) -> State:
    (state,) = stream._run.acts.at("cache-step")[-1:]
    return cast("State", state)


def frames_of(stream: Any, layer: int) -> Tensor:
    """The frame of each entry that a layer holds, −1 for text."""
    state, held = state_of(stream), stream.cache.held(layer)
    frame, token = (x[0, 0].tolist() for x in state.frame_of[layer])
    known = dict(zip(token, frame, strict=True))
    return torch.tensor([known.get(index, -1) for index in held.index_BGS[0, 0].tolist()])


def test_ranks_count_within_each_frame() -> None:
    norm = torch.tensor([[5.0, 9.0, 9.0, 1.0, 2.0, 7.0, 3.0], [1.0, 2, 3, 4, 5, 6, 7]])
    frame = torch.tensor([[0, 0, 1, 1, 1, -1, 0], [2, 2, 2, 2, 2, 2, 2]])
    assert rank_in_group(norm, frame).tolist() == [[1, 0, 0, 2, 1, 0, 2], [6, 5, 4, 3, 2, 1, 0]]
    assert rank_in_group(torch.ones(1, 4), torch.tensor([[3, 1, 3, 1]])).tolist() == [[0, 0, 1, 1]]


def test_what_is_old_and_says_little_goes_first() -> None:
    soon = forgetting(torch.tensor([[0, 3, 0, 3, 3, 3]]), torch.tensor([[8, 8, 2, 2, 1, 0]]), window=2)
    assert soon.tolist() == [[5.0, 20.0, 2.0, 8.0, 0.0, 0.0]]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 4), st.integers(0, 30), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_what_stays_is_that_of_the_definition(sizes: list[int], window: int, budget: int, seed: int) -> None:
    frame = [number for number, size in enumerate(sizes) for _ in range(size)]
    norm = torch.rand(1, len(frame), generator=torch.Generator().manual_seed(seed))
    rank = rank_in_group(norm, torch.tensor([frame]))
    for place, number in enumerate(frame):
        longer = [other for other in range(len(frame)) if frame[other] == number and norm[0, other] > norm[0, place]]
        assert rank[0, place] == len(longer)
    soon = forgetting(rank, torch.tensor([[len(sizes) - 1 - number for number in frame]]), window)
    for place, number in enumerate(frame):
        age = len(sizes) - 1 - number
        expected = 0.0 if age < window else (int(rank[0, place]) + 1) * (1 + age / window)
        assert float(soon[0, place]) == pytest.approx(expected)


def next_place(stream: Any) -> int:
    """Where the next token would stand in the first layer's cache."""
    cache = stream.cache
    held = Reading(*cache.stores[0].read(), cache.stores[0].length, lambda: cache.held(0))
    offset_M = torch.zeros(1, dtype=torch.long, device=cache.next_position.device)
    return int(cache.in_cache.positions(0, held, offset_M, cache.next_position[0][:, None])[1].max())


def fed(lvlm: LVLM, setting: StreamingStateManagement, rounds: int) -> Any:
    """A session that has seen so many frames, a round each, behind six words."""
    stream = lvlm.stream([setting])
    generator = torch.Generator().manual_seed(0)
    stream.ask(torch.arange(1, 7), 1)
    for _ in range(rounds):
        stream.see(torch.randn(1, 3, *lvlm.config.frame_size, generator=generator))
    return stream


def test_old_frames_fade_and_the_newest_stay_whole(lvlm: LVLM) -> None:
    stream = fed(lvlm, StreamingStateManagement(window=2, vision_budget=320), rounds=12)
    for layer in range(4):
        curve = held_of_frames(frames_of(stream, layer), 12).tolist()
        assert sum(curve) == 320
        assert curve[-2:] == [64, 64]
        assert curve == sorted(curve)
        assert 0 < curve[0] < 16  # a frame of long ago has left something
        drops = [newer - older for older, newer in pairwise(curve[:-1])]
        assert drops[-1] >= drops[0]


def test_entries_that_stay_are_those_of_longest_values(lvlm: LVLM) -> None:
    whole = fed(lvlm, StreamingStateManagement(vision_budget=10_000), rounds=6)
    cut = fed(lvlm, StreamingStateManagement(window=1, vision_budget=120), rounds=1)  # fits: nothing is cut
    assert [store.length for store in cut.cache.stores] == [71] * 4
    stream = fed(lvlm, StreamingStateManagement(window=1, vision_budget=90), rounds=2)
    norm = whole.cache.stores[0].read()[1].norm(dim=-1).mean(dim=1)[0, 7:71]
    kept = stream.cache.held(0).index_BGS[0, 0]
    expected = norm.argsort(descending=True)[:26].sort().values + 7
    assert kept[7:33].tolist() == expected.tolist()  # the second frame is whole, 26 of the first are left


def test_two_thousand_frames_run_in_constant_memory(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    setting = StreamingStateManagement(window=2, vision_budget=180, text_sink=4, text_window=8)
    stream, byte, reach = lvlm.stream([setting]), set(), set()
    stream.ask(torch.arange(1, 5), 1)
    pixels = torch.randn(20, 3, *lvlm.config.frame_size, generator=torch.Generator().manual_seed(0)).to(device)
    for number in range(100):
        stream.see(pixels)
        if number > 1:
            state = state_of(stream)
            byte.add((sum(stream.cache.layer_byte()), sum(x.nbytes for pair in state.frame_of.values() for x in pair)))
            reach.add(next_place(stream))
    frames = state_of(stream).frames
    assert frames == 2000 // lvlm.config.frames_a_patch
    assert len(byte) == 1
    assert max(reach) < 300
    curve = held_of_frames(frames_of(stream, 0), frames)
    assert curve[-2:].tolist() == [30, 30]
    assert int(curve.sum()) == 180
    assert int((curve > 0).sum()) > 10
    assert int(curve[: frames // 2].sum()) == 0  # what is forgotten: nothing of the first half is left
    answer = stream.ask(torch.arange(1, 9), 4)
    assert answer.trace.kv_entries == [180 + 12] * lvlm.config.text.num_hidden_layers


def test_text_has_a_budget_of_its_own(lvlm: LVLM) -> None:
    stream = fed(lvlm, StreamingStateManagement(window=1, vision_budget=50, text_sink=3, text_window=5), rounds=4)
    stream.ask(torch.arange(1, 31), 9)
    for layer in range(4):
        held = stream.cache.held(layer)
        text = held.index_BGS[0, 0][~held.vision_BGS[0, 0]].tolist()
        assert text[:3] == [0, 1, 2]
        assert len(text) == 8
        assert int(held.vision_BGS[0, 0].sum()) == 50
    assert stream.rounds[-1].kv_most_entries == [58] * 4


def test_a_question_pushes_no_frame_out(lvlm: LVLM) -> None:
    stream = fed(lvlm, StreamingStateManagement(window=1, vision_budget=100), rounds=3)
    before = frames_of(stream, 2)
    stream.ask(torch.arange(1, 31), 5)
    after = frames_of(stream, 2)
    assert before[before >= 0].tolist() == after[after >= 0].tolist()


def test_frames_are_known_after_evictions(lvlm: LVLM) -> None:
    stream = fed(lvlm, StreamingStateManagement(vision_budget=10_000), rounds=3)
    held = stream.cache.held(0)
    stream.cache.evict(0, (held.index_BGS < 2) | (held.index_BGS >= 100))
    stream.see(torch.zeros(1, 3, *lvlm.config.frame_size))
    assert frames_of(stream, 0).tolist() == [-1, -1, *[1] * 35, *[2] * 64, *[3] * 64]


def test_it_is_alone_in_evicting_at_each_step(lvlm: LVLM) -> None:
    with pytest.raises(Refusal, match="and StreamingLlm would cut it as well; leave one out"):
        lvlm.run(random_request(lvlm.config), [StreamingStateManagement(), StreamingLlm()])


def text_state(real: Tensor) -> Tensor | None:
    """What stays of five entries of text, some of them padding."""
    index = torch.tensor([[[0, 0, 4, 6, 7]]]).expand(1, real.shape[1], 5)
    held = Held(torch.zeros_like(index, dtype=torch.bool), index, index, real)
    state = State(StreamingStateManagement(text_sink=1, text_window=1), cast("Any", type("Run", (), {"prompt": None})))
    return state.evict(CacheStep(0, 1, held, 1, lambda _: index, lambda: (index, index), prompt=False))


def test_padding_counts_as_no_entry() -> None:
    stays = text_state(torch.tensor([[[False, False, True, True, True]]]))
    assert stays is not None
    assert stays[0, 0].tolist() == [False, False, True, False, True]


def test_heads_of_different_numbers_are_refused() -> None:
    with pytest.raises(Refusal, match="those of layer 0 hold different numbers of entries"):
        text_state(torch.tensor([[[False, False, True, True, True], [True] * 5]]))


def test_room_for_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    plain, held = lvlm.run(request), lvlm.run(request, [StreamingStateManagement()])
    torch.testing.assert_close(held.logits_NC, plain.logits_NC, atol=1e-5, rtol=1e-5)
    assert held.trace.kv_most_entries == plain.trace.kv_most_entries
    assert held.trace.probe_entries == 0


def test_codes_and_drafts_take_no_part_in_what_stays(lvlm: LVLM, device: str) -> None:
    request, setting = random_request(lvlm.config), StreamingStateManagement(2, 100, 4, 8)
    draft = SpeculativeSampling(gamma=3, draft=LVLM.random(seed=1, device=device))
    alone = lvlm.run(request, [setting])
    drafted, coded = lvlm.run(request, [setting, draft]), lvlm.run(request, [Kivi(group_size=16), setting])
    assert torch.equal(alone.tokens_N, drafted.tokens_N)
    assert alone.trace.kv_most_entries == drafted.trace.kv_most_entries == coded.trace.kv_most_entries == [112] * 4


def test_arguments_out_of_range_are_refused() -> None:
    for name, value in (("window", 0), ("vision_budget", -1), ("text_sink", -1), ("text_window", 0)):
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            StreamingStateManagement(**{name: value})
