"""StreamingVLM."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.caches.in_cache import InCache
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling
from lvlm_atlas.reference.techniques.prefilling.streamingvlm import StreamingVlm, age_of, stays


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def stream(lvlm: LVLM, rounds: int, *stack: object, answer: int = 3) -> list[list[int]]:
    """What the first layer holds once each round is over; a round is a frame, 6 words and an answer."""
    session, held = lvlm.stream(stack), []
    for seed in range(rounds):
        request = random_request(lvlm.config, frames=1, text_tokens=6, seed=seed)
        session.ask(request.prompt_N, answer, frames=request.frames_F3HW)
        held.append(session.cache.held(0).index_BGS[0, 0].tolist())
        assert len({store.length for store in session.cache.stores}) == 1
    return held


def places(lvlm: LVLM, number: int, answer: int = 3) -> tuple[list[int], list[int]]:
    """Places of the vision tokens and of the text of a round."""
    inputs = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1, text_tokens=6)))
    length = inputs.length + answer
    start = number * length
    vision = (start + inputs.vision_BN[0].nonzero()[:, 0]).tolist()
    return vision, sorted({*range(start, start + length)} - {*vision})


def masks(kinds: str, ages: list[int], device: str) -> tuple[Tensor, Tensor]:
    return torch.tensor([[[kind == "v" for kind in kinds]]], device=device), torch.tensor([[ages]], device=device)


def test_ages_count_what_began_behind_a_token(device: str) -> None:
    index = torch.tensor([[[0, 4, 5, 9, 10, 30]]], device=device)
    assert age_of(index, torch.tensor([0, 5, 10], device=device)).tolist() == [[[2, 2, 1, 1, 0, 0]]]


def test_young_text_stays_besides_the_ends_of_the_older(device: str) -> None:
    vision, age = masks("ttvttttvtt", [2, 2, 2, 2, 1, 1, 1, 1, 0, 0], device)
    kept = stays(vision, age, age, window_size=1, text_round=1, text_sink=1, text_sliding_window=2)
    assert kept.nonzero()[:, 2].tolist() == [0, 5, 6, 8, 9]
    kept = stays(vision, age, age, window_size=2, text_round=2, text_sink=0, text_sliding_window=1)
    assert kept.nonzero()[:, 2].tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert stays(vision, age, age, 3, 1, 3, 3).all()  # the ends meet
    visible = torch.ones_like(vision)
    visible[..., 0] = False  # padding is nobody's sink
    kept = stays(vision, age, age, 1, 1, 1, 0, visible)
    assert kept.nonzero()[:, 2].tolist() == [1, 8, 9]


def test_vision_stays_or_goes_by_whole_blocks(lvlm: LVLM) -> None:
    first, second = places(lvlm, 0), places(lvlm, 1)
    held = stream(lvlm, 3, StreamingVlm(window_size=2, text_round=9))
    assert held[0] == sorted([*first[0], *first[1]])
    assert held[1] == sorted([*first[0], *first[1], *second[0], *second[1]])
    assert {*held[2]} & {*first[0]} == set()
    assert {*held[2]} >= {*first[1], *second[0], *second[1]}


def test_a_request_with_more_frames_than_the_window_keeps_the_newest(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=5, max_new_tokens=2)
    trace = lvlm.run(request, [StreamingVlm(window_size=2, text_round=1, text_sink=0, text_sliding_window=0)]).trace
    assert trace.llm_vision_tokens == [320] * 4
    assert trace.kv_vision_entries == [128] * 4
    assert trace.kv_entries == [144] * 4  # text is young
    vision = lvlm.prepare(lvlm.begin(request)).vision_BN[0].nonzero()[:, 0].tolist()
    assert {*trace.kv_index[0][0, 0].tolist()} & {*vision} == {*vision[-128:]}


def test_a_long_stream_is_bounded_and_its_first_text_never_leaves(lvlm: LVLM) -> None:
    held = stream(lvlm, 12, StreamingVlm(window_size=2, text_round=2, text_sink=4, text_sliding_window=5))
    assert [len(each) for each in held] == [73, 146, *[2 * 64 + 2 * 9 + 9] * 10]
    texts = [place for number in range(12) for place in places(lvlm, number)[1]]
    for number, each in enumerate(held[2:], start=2):
        old = texts[: 9 * (number - 1)]
        assert each[:4] == texts[:4]
        assert [*filter(old.__contains__, each)] == old[:4] + old[-5:]


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_positions_run_on_without_gaps_over_what_is_left(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lvlm, seen = LVLM.random(preset), []
    rotate = InCache.rotate

    def spy(self: InCache, x_BHNd: Tensor, position_BGN: Tensor) -> Tensor:
        seen.append(position_BGN)
        return rotate(self, x_BHNd, position_BGN)

    monkeypatch.setattr(InCache, "rotate", spy)
    session, most = lvlm.stream([StreamingVlm(1, 1, 4, 5)]), []
    for seed in range(6):
        request = random_request(lvlm.config, frames=2, text_tokens=6, seed=seed)
        session.ask(request.prompt_N, 3, frames=request.frames_F3HW)
        most.append(int(torch.cat([each.flatten() for each in seen]).max()))
        last = seen[-1].unique()  # the keys of the last step
        assert last.tolist() == [*range(len(last))]
        seen.clear()
    assert most[2:] == [most[2]] * 4


def test_until_a_window_is_full_answers_are_as_without(lvlm: LVLM) -> None:
    plain, bounded = lvlm.stream(), lvlm.stream([StreamingVlm(window_size=3, text_round=3)])
    for seed in range(4):
        request = random_request(lvlm.config, frames=1, text_tokens=6, seed=seed)
        one, two = (each.ask(request.prompt_N, 4, frames=request.frames_F3HW) for each in (plain, bounded))
        same = torch.allclose(one.logits_NC, two.logits_NC, atol=1e-4, rtol=1e-4)
        assert same == (seed < 3)


def test_an_answer_is_never_cut(lvlm: LVLM) -> None:
    setting = StreamingVlm(window_size=1, text_round=1, text_sink=0, text_sliding_window=0)
    trace = lvlm.run(random_request(lvlm.config, frames=1, max_new_tokens=20), [setting]).trace
    assert trace.kv_most_entries == [99] * 4
    held = stream(lvlm, 2, setting, answer=9)
    assert len(held[1]) == 64 + 6 + 9


def test_a_question_without_frames_ages_text_alone(lvlm: LVLM) -> None:
    session = lvlm.stream([StreamingVlm(window_size=1, text_round=1, text_sink=0, text_sliding_window=2)])
    request = random_request(lvlm.config, frames=1, text_tokens=6)
    session.ask(request.prompt_N, 3, frames=request.frames_F3HW)
    session.ask(request.text_N, 3)
    held = session.cache.held(0)
    assert int(held.vision_BGS[0, 0].sum()) == 64
    assert held.length == 64 + 2 + 6 + 3
    before = held.index_BGS
    session.ask(request.text_N, 3, keep=False)  # as if it had never been asked
    assert torch.equal(session.cache.held(0).index_BGS, before)


def test_other_stores_and_drafts_hold_the_same_entries(lvlm: LVLM) -> None:
    setting = StreamingVlm(window_size=1, text_round=1, text_sink=4, text_sliding_window=5)
    alone = stream(lvlm, 3, setting)
    assert stream(lvlm, 3, setting, Kivi(group_size=8, residual_length=8)) == alone
    draft = SpeculativeSampling(gamma=2, draft=LVLM.random(seed=1, device=lvlm.device))
    session = lvlm.stream([setting])
    request = random_request(lvlm.config, frames=1, text_tokens=6)
    plain = session.ask(request.prompt_N, 6, frames=request.frames_F3HW)
    drafted = lvlm.stream([setting, draft]).ask(request.prompt_N, 6, frames=request.frames_F3HW)
    assert torch.equal(plain.tokens_N, drafted.tokens_N)


def test_parameters_outside_their_range_are_refused() -> None:
    for name in ("window_size", "text_round"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            StreamingVlm(**{name: 0})
    for name in ("text_sink", "text_sliding_window"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
            StreamingVlm(**{name: -1})
