"""ReKV: the window, the blocks on the host, and what a question reads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.reference.lvlm import LVLM, Refusal, Technique, random_request
from lvlm_atlas.reference.ops.attention import Rotary
from lvlm_atlas.reference.ops.window import Window
from lvlm_atlas.reference.refusal import StackError
from lvlm_atlas.reference.techniques.decoding.rekv import (
    ReKV,
    Retrieval,
    block_scores,
    representatives,
    select_blocks,
)
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV

TOKENS, FRAMES = 64, 6


def begun(setting: ReKV, device: str, **request: int) -> tuple[LVLM, object, object]:
    """A model, the prefill of a random request, and what ReKV knows of it."""
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config, **request), [setting])
    with torch.inference_mode():
        filled = lvlm.prefill(lvlm.prepare(run), run)
    return lvlm, filled, run.acts.owner("cache-read")


def test_what_stands_for_a_frame_is_the_mean_of_its_keys_before_rotary(device: str) -> None:
    key = torch.arange(24.0, device=device).reshape(1, 2, 6, 2)
    mean = representatives(key, tokens=3, heads=4)
    assert mean.tolist() == [[[2, 3, 2, 3, 14, 15, 14, 15], [8, 9, 8, 9, 20, 21, 20, 21]]]
    _, filled, state = begun(ReKV(200, 2), device)
    assert isinstance(state, Retrieval)
    for store, mean_BFD in zip(filled.cache.stores, state.representative_BFD, strict=True):
        key = store.read()[0][:, :, state.first : state.end]
        torch.testing.assert_close(mean_BFD, representatives(key, TOKENS, 4))
        turned = Rotary(10_000.0)(key, torch.arange(key.shape[2], device=device)[None])
        assert not torch.allclose(mean_BFD, representatives(turned, TOKENS, 4), atol=1e-2)


def test_a_longer_mean_key_scores_higher(device: str) -> None:
    query = torch.tensor([[[[1.0, 0.0], [3.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]], device=device)
    means = torch.tensor([[[1.0, 0, 0, 1], [2.0, 0, 0, 2], [0, 1, 1, 0]]], device=device)
    assert block_scores(query, means).tolist() == [[3.0, 6.0, 0.0]]


@pytest.mark.parametrize(
    ("count", "group", "blocks"),
    [(2, 1, [1, 4]), (4, 2, [2, 3, 4, -1]), (2, 2, [4, -1]), (5, 1, [0, 1, 2, 3, 4]), (6, 3, [0, 1, 2, 3, 4])],
)
def test_the_best_groups_stand_in_order_of_time(count: int, group: int, blocks: list[int]) -> None:
    score = torch.tensor([[0.0, 2.0, 1.0, 1.5, 3.0]])
    assert select_blocks(score, count, group).tolist() == [blocks]


@given(blocks=st.integers(1, 30), group=st.integers(1, 4), groups=st.integers(1, 6), seed=st.integers(0, 99))
def test_no_group_that_is_left_out_scores_higher_than_one_that_is_read(
    blocks: int, group: int, groups: int, seed: int
) -> None:
    score = torch.randn(1, blocks, generator=torch.Generator().manual_seed(seed))
    chosen = [block for block in select_blocks(score, group * groups, group)[0].tolist() if block >= 0]
    assert chosen == sorted(set(chosen))
    if blocks <= group * groups:
        assert chosen == [*range(blocks)]
        return
    means = [float(part.mean()) for part in score[0].split(group)]
    read = {block // group for block in chosen}
    assert len(read) == groups
    assert all(block in chosen for index in read for block in range(index * group, min(blocks, (index + 1) * group)))
    assert min(means[index] for index in read) >= max(means[index] for index in {*range(len(means))} - read)


def test_each_layer_reads_frames_of_its_own(device: str) -> None:
    _, _, state = begun(ReKV(200, 2), device)
    frames = {tuple(((index[0, 0, state.first :] - state.first) // TOKENS).unique().tolist())
              for index in state.read_BGR.values()}  # fmt: skip
    assert len(frames) > 1
    assert all(len(each) == 2 for each in frames)
    for index in state.read_BGR.values():
        assert torch.equal(index[0, 0], index[0, 1])
        assert index[0, 0, : state.first].tolist() == [*range(state.first)]


def test_a_frame_whose_keys_agree_with_the_question_is_read(device: str) -> None:
    query = torch.randn(1, 4, 12, 16, generator=torch.Generator().manual_seed(0)).to(device)
    means = torch.randn(1, FRAMES, 64, generator=torch.Generator().manual_seed(1)).to(device) * 0.1
    means[0, 3] = query.mean(2).flatten()
    assert select_blocks(block_scores(query, means), 1).tolist() == [[3]]


def test_first_tokens_are_seen_at_the_far_end_of_the_window(device: str) -> None:
    _, _, state = begun(ReKV(100, 1), device)
    sequence = SimpleNamespace(length=388, vision_BN=torch.tensor([[False] * 4 + [True] * 384]))
    assert state.choose_blocks(SimpleNamespace(cached=0, sequence=sequence)) == Window(100, 4, 99)
    sequence.length = 100
    assert state.choose_blocks(SimpleNamespace(cached=0, sequence=sequence)) is None


def test_with_room_for_everything_the_answer_is_that_of_the_model(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    plain, same = lvlm.run(request), lvlm.run(request, [ReKV(100_000, 100)])
    torch.testing.assert_close(plain.logits_NC, same.logits_NC, rtol=0, atol=1e-5)
    assert same.trace.kv_read == pytest.approx([same.trace.target_passes] * 4)


def test_frames_outside_the_window_wait_on_the_host_and_no_step_fetches_any(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [ReKV(64, 1)]).trace
    read, entry_byte = 16 + TOKENS, sum(trace.kv_byte) / (4 * 400)
    in_window_only, besides = 16 + TOKENS, 16 + 2 * TOKENS
    assert 4 * in_window_only * entry_byte <= trace.kv_resident_byte <= 4 * besides * entry_byte
    assert (trace.kv_fetched_byte, trace.kv_entries) == (0, [400] * 4)
    steps = range(1, trace.target_passes + 1)
    assert trace.kv_read == pytest.approx([sum((read + step) / (400 + step) for step in steps)] * 4)


def test_frames_that_are_not_read_have_no_say(device: str) -> None:
    lvlm, filled, state = begun(ReKV(200, 2), device)
    with torch.inference_mode():
        first = lvlm.step(torch.tensor([5]), filled.cache).clone()
        filled.cache.retain(torch.empty(0, dtype=torch.long, device=device))
        for layer, store in enumerate(filled.cache.stores):
            read = {*state.read_BGR[layer][0, 0].tolist()}
            for number, block in enumerate(piece for piece in store._pieces if hasattr(piece, "on_host")):
                if state.first + number * TOKENS not in read:
                    for x in (*block.on_host, *block.on_device):
                        x.fill_(1e3)
        again = lvlm.step(torch.tensor([5]), filled.cache)
    torch.testing.assert_close(first, again)


def test_a_question_that_is_taken_back_leaves_the_next_one_as_it_was(device: str) -> None:
    lvlm = LVLM.random(device=device)
    frames = random_request(lvlm.config, frames=5).frames_F3HW
    image = torch.tensor([lvlm.config.image_token_id])
    answers = []
    for questions in ([[7, 8]], [[3, 4, 5], [7, 8]]):
        stream = lvlm.stream([ReKV(200, 2)])
        stream.see(frames[:3], torch.cat([torch.tensor([1, 2]), image.repeat(3)]))
        stream.see(frames[3:])
        for question in questions:
            result = stream.ask(torch.tensor(question), 4, keep=False)
        answers.append(result)
    assert torch.equal(answers[0].tokens_N, answers[1].tokens_N)
    torch.testing.assert_close(answers[0].logits_NC, answers[1].logits_NC)


def test_frames_that_arrive_one_by_one_are_read_as_at_once(device: str) -> None:
    lvlm = LVLM.random(device=device)
    frames = random_request(lvlm.config, frames=5).frames_F3HW
    image = torch.tensor([lvlm.config.image_token_id])
    results = []
    for sizes in ([5], [1, 1, 1, 1, 1], [2, 3]):
        stream = lvlm.stream([ReKV(150, 2)])
        for number, part in enumerate(frames.split(sizes)):
            before = torch.tensor([1, 2]) if number == 0 else torch.tensor([], dtype=torch.long)
            stream.see(part, torch.cat([before, image.repeat(len(part))]))
        results.append(stream.ask(torch.tensor([7, 8, 9]), 5, keep=False))
    for other in results[1:]:
        torch.testing.assert_close(results[0].logits_NC, other.logits_NC, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("setting", "stack", "error", "message"),
    [
        (ReKV(100, 2), [], Refusal, "must fit the window"),
        (ReKV(200, 2), [FastV()], StackError, "needs `attention-row`"),
    ],
)
def test_what_cannot_run_is_refused(
    setting: ReKV, stack: list[Technique], error: type[Exception], message: str, device: str
) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(error, match=message):
        lvlm.run(random_request(lvlm.config), [*stack, setting])


def test_sizes_that_do_not_fit_each_other_and_illegal_ones_are_told_apart() -> None:
    with pytest.raises(Refusal, match="multiple of retrieve_chunk_size 2, got 3"):
        ReKV(retrieve_size=3, retrieve_chunk_size=2)
    with pytest.raises(ValueError, match="local_size must be at least 1"):
        ReKV(local_size=0)
