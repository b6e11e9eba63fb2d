"""Sessions: rounds on one cache are one long prompt, a question can be taken back, memory is what the cache holds."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.caches.store import PlainStore
from lvlm_atlas.reference.lvlm import LVLM, Refusal, Request, StackError, Technique, random_request
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling

PRESETS = ["tiny", "tiny-tiles", "tiny-window", "tiny-deepstack"]
CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(params=PRESETS)
def lvlm(request: pytest.FixtureRequest, device: str) -> LVLM:
    return LVLM.random(request.param, device=device)


def words(number: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 120, (number,), generator=torch.Generator().manual_seed(seed))


def frames(lvlm: LVLM, number: int, seed: int = 0) -> Tensor:
    return random_request(lvlm.config, frames=number, seed=seed).frames_F3HW  # type: ignore[return-value]


def still(lvlm: LVLM) -> int:
    return lvlm.config.image_token_id


def one_prompt(lvlm: LVLM, frames: Tensor, parts: list[Tensor]) -> Request:
    return Request(frames_F3HW=frames, prompt_N=torch.cat(parts), image_token_id=still(lvlm), max_new_tokens=4)


def test_the_second_turn_of_a_chat_is_one_long_prompt(lvlm: LVLM) -> None:
    image, second = frames(lvlm, 2), words(5, seed=2)
    for seed in range(20):
        first = words(6, seed=seed)
        prompt_N = torch.cat([first[:2], torch.tensor([still(lvlm)] * 2), first[2:]])
        stream = lvlm.stream(image_token_id=still(lvlm))
        one = stream.ask(prompt_N, 5, frames=image)
        if still(lvlm) not in one.tokens_N:  # else the long prompt would have more placeholders than images
            break
    two = stream.ask(second, 4)
    whole = lvlm.run(one_prompt(lvlm, image, [prompt_N, one.tokens_N, second]))
    assert torch.equal(two.tokens_N, whole.tokens_N)
    torch.testing.assert_close(two.logits_NC, whole.logits_NC, **CLOSE)
    assert two.trace.frames == 0
    assert two.trace.kv_entries == whole.trace.kv_entries


def test_frames_that_arrive_one_after_the_other_are_those_of_one_prompt(lvlm: LVLM) -> None:
    images, question = frames(lvlm, 3), words(7)
    token = torch.tensor([still(lvlm)])
    stream = lvlm.stream(image_token_id=still(lvlm))
    for image in images:
        stream.see(image[None])
    result = stream.ask(question, 4)
    whole = lvlm.run(one_prompt(lvlm, images, [token, token, token, question]))
    torch.testing.assert_close(result.logits_NC, whole.logits_NC, **CLOSE)
    total = stream.trace
    assert (total.frames, total.vision_tokens, total.text_tokens) == (3, whole.trace.vision_tokens, 7)
    for name in ("llm_tokens", "llm_vision_tokens", "score_entries", "kv_entries", "kv_byte_end", "output_tokens"):
        assert getattr(total, name) == getattr(whole.trace, name), name
    assert [each.frames for each in stream.rounds] == [1, 1, 1, 0]


def test_a_clip_counts_on_from_behind_the_longer_side_of_the_one_before(lvlm: LVLM) -> None:
    stream, following = lvlm.stream(), [0]
    for clip in frames(lvlm, 12).split(6):
        stream.see(clip)
        following.append(int(stream.cache.next_position[0]))
    ids = stream.cache.held(0).position_BGS[0, 0]
    first, second = ids.split(len(ids) // 2)
    assert torch.equal(second - first, torch.full_like(first, following[1]))
    assert following[2] == 2 * following[1]


@pytest.mark.parametrize("stack", [(), (Kivi(group_size=4, residual_length=8),)], ids=["plain", "kivi"])
def test_a_question_that_does_not_stay_leaves_no_trace_in_what_follows(lvlm: LVLM, stack: tuple[Any, ...]) -> None:
    image, first, second = frames(lvlm, 2), words(5), words(6, seed=2)
    answers = []
    for others in (0, 2):
        stream = lvlm.stream(stack, image_token_id=still(lvlm))
        stream.see(image)
        for other in range(others):
            stream.ask(words(9, seed=other), 7, keep=False)
        answers += [stream.ask(first, 4).logits_NC, stream.ask(second, 4, keep=False).logits_NC]
    assert torch.equal(answers[0], answers[2])
    assert torch.equal(answers[1], answers[3])


def test_a_first_question_that_does_not_stay_leaves_an_empty_session(lvlm: LVLM) -> None:
    stream = lvlm.stream()
    stream.ask(words(5), 2, keep=False)
    with pytest.raises(ValueError, match="nothing was read yet"):
        _ = stream.cache
    expected = lvlm.stream().ask(words(6), 3).logits_NC
    assert torch.equal(stream.ask(words(6), 3).logits_NC, expected)


def test_tokens_accepted_behind_the_end_of_an_answer_do_not_stay(lvlm: LVLM) -> None:
    image, first, second = frames(lvlm, 1), words(6), words(5, seed=2)
    prompt_N = torch.cat([torch.tensor([still(lvlm)]), first])
    plain, drafted = (
        lvlm.stream(image_token_id=still(lvlm)),
        lvlm.stream([SpeculativeSampling(gamma=4)], image_token_id=still(lvlm)),
    )
    one, same = (each.ask(prompt_N, 6, frames=image) for each in (plain, drafted))
    assert torch.equal(one.tokens_N, same.tokens_N)
    assert plain.cache.stores[0].length == drafted.cache.stores[0].length
    torch.testing.assert_close(plain.ask(second, 3).logits_NC, drafted.ask(second, 3).logits_NC, **CLOSE)


@dataclass(frozen=True)
class Window(Technique):
    """Holds the last entries alone, and remembers in which rounds it was asked."""

    limit: int = 24
    acts_at: ClassVar = ("llm-input", "cache-bits")

    def begin(self, run: Any) -> Any:
        return Remembering(self.limit, run, [])


class Recent(PlainStore):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def settle(self) -> None:
        if self._length > self.limit:
            self._key, self._value = (
                x[:, :, self._length - self.limit : self._length].clone() for x in (self._key, self._value)
            )
            self._length = self.limit
        super().settle()


@dataclass
class Remembering:
    limit: int
    run: Any
    rounds: list[tuple[int, int, int]]

    def llm_input(self, at: Any) -> Any:
        self.rounds.append((self.run.round, len(self.run.request.frames_F3HW), len(self.run.question_ND)))
        return at.sequence

    def new_store(self, at: Any) -> Recent:
        return Recent(self.limit)


def test_techniques_are_begun_once_and_told_of_each_round(lvlm: LVLM) -> None:
    begun: list[Remembering] = []

    class Noted(Window):
        def begin(self, run: Any) -> Any:
            begun.append(super().begin(run))
            return begun[-1]

    stream = lvlm.stream([Noted()])
    stream.see(frames(lvlm, 2))
    stream.see(frames(lvlm, 4), torch.cat([words(3), torch.full((4,), lvlm.config.placeholders[0])]))
    stream.ask(words(5), 2)
    (acting,) = begun
    assert acting.rounds == [(0, 2, 0), (1, 4, 3), (2, 0, 5)]


def test_a_thousand_frames_take_no_more_than_the_cache_may_hold(device: str) -> None:
    lvlm = LVLM.random(device=device)
    stream, clip = lvlm.stream([Window()]), frames(lvlm, 10)
    held, alive = [], []
    for number in range(100):
        stream.see(clip)
        held.append(sum(stream.cache.layer_byte()))
        if number % 30 == 9:
            gc.collect()  # what other tests have left in circles
            alive.append(sum(type(each) is Tensor for each in gc.get_objects()))
    assert max(held) == held[0]  # a clip alone is more than the window
    assert len({*alive}) == 1  # nothing of what the encoder gave stays
    assert stream.trace.frames == 1000
    assert max(stream.trace.kv_entries) == 24


def test_frames_of_which_nothing_is_left_leave_the_session_as_it_was(lvlm: LVLM) -> None:
    class DropsSecondRound(Technique):
        acts_at = ("adapter-output",)

        def begin(self, run: Any) -> Any:
            acting = DropsSecondRound()
            acting.run = run  # type: ignore[attr-defined]
            return acting

        def adapter_output(self, at: Any) -> Any:
            left = slice(0, 0) if self.run.round == 1 else slice(None)  # type: ignore[attr-defined]
            return at.tokens.keep([torch.arange(block.length)[left] for block in at.tokens.blocks])

    dropped, never = lvlm.stream([DropsSecondRound()]), lvlm.stream()
    for stream, rounds in ((dropped, 2), (never, 1)):
        for seed in range(rounds):
            stream.see(frames(lvlm, 2, seed))
    assert dropped.trace.frames == 4
    assert torch.equal(dropped.ask(words(5), 3).logits_NC, never.ask(words(5), 3).logits_NC)


def test_what_a_run_refuses_a_session_refuses_before_it_begins() -> None:
    lvlm = LVLM.random("tiny-window")

    class Needy(Window):
        needs = ("free-patches",)

    with pytest.raises(Refusal, match="needs `free-patches`"):
        lvlm.stream([Needy()])
    with pytest.raises(StackError, match="both own 'cache-bits'"):
        lvlm.stream([Window(), Window()])
    with pytest.raises(ValueError, match="a question must have a token"):
        lvlm.stream().ask(torch.empty(0, dtype=torch.long))
    with pytest.raises(ValueError, match="marks its frames with token 3"):
        lvlm.stream(image_token_id=3).see(frames(lvlm, 1))


def test_each_round_draws_for_itself_and_a_seed_repeats_the_session() -> None:
    lvlm = LVLM.random()
    sessions = []
    for _ in range(2):
        stream = lvlm.stream(temperature=1.0, seed=7)
        sessions.append([stream.ask(words(4), 6, keep=False).tokens_N for _ in range(2)])
    assert all(torch.equal(a, b) for a, b in zip(*sessions, strict=True))
    assert not torch.equal(*sessions[0])
