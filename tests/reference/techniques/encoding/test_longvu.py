"""LongVU."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens, blocks_of
from lvlm_atlas.reference.lvlm import LVLM, Refusal, StackError, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.techniques.encoding.longvu import (
    LongVU,
    coarse,
    cut_tails,
    distinct_frames,
    fresh_tokens,
    relevance,
    thinned,
)
from lvlm_atlas.reference.techniques.encoding.tome import ToMe


def test_of_equal_frames_the_middle_one_of_each_window_stays(device: str) -> None:
    feature = torch.ones(10, 3, 4, device=device)
    assert distinct_frames(feature, 0.83, 4).nonzero()[:, 0].tolist() == [2, 6, 9]  # windows of 4, 4 and 2
    assert distinct_frames(feature[:1], 0.01, 4).tolist() == [True]


def test_a_frame_resembles_itself_too(device: str) -> None:
    """Three frames at right angles: the mean cosine is 1/3, not 0."""
    feature = torch.eye(3, device=device)[:, None]
    assert distinct_frames(feature, 0.34, 3).tolist() == [True, True, True]
    assert distinct_frames(feature, 0.33, 3).tolist() == [False, True, False]


def test_all_patches_of_a_frame_are_compared_together(device: str) -> None:
    """Frames of two patches each, one of them the same: the cosine is a half, whatever the order of patches."""
    feature = torch.tensor([[[1.0, 0], [0, 1]], [[1, 0], [1, 0]], [[1, 0], [0, 1]]], device=device)
    # Means: (1 + 1/2 + 1) / 3 for the outer frames.
    assert distinct_frames(feature, 0.83, 3).tolist() == [False, True, False]
    assert distinct_frames(feature, 0.84, 3).tolist() == [True, True, True]


@given(st.integers(0, 40), st.integers(1, 12))
def test_frames_are_thinned_evenly(kept: int, most: int) -> None:
    left = thinned(torch.arange(kept), most).tolist()
    assert len(left) == min(kept, most)
    assert left == sorted(set(left))
    assert not left or left[0] == 0
    steps = {b - a for a, b in pairwise(left)}
    assert not steps or max(steps) - min(steps) <= 1


def test_coarse_tokens_lie_between_the_centres_of_fine_ones(device: str) -> None:
    """A ramp of 4 × 6 to 2 × 2: what lies in the middle of a quarter is its mean."""
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    token = torch.stack([row, column], -1).reshape(1, 24, 2).to(device)
    assert torch.allclose(
        coarse(token, (4, 6), 2)[0], torch.tensor([[0.5, 1], [0.5, 4], [2.5, 1], [2.5, 4]], device=device)
    )
    assert torch.allclose(coarse(token[:, :16], (4, 4), 4), token[:, :16])


def test_relevance_is_the_mean_dot_product(device: str) -> None:
    token = torch.tensor([[[1.0, 0], [3, 0]], [[0, 2], [0, 0]]], device=device)
    text = torch.tensor([[1.0, 0], [1, 2], [1, 4]], device=device)
    assert relevance(token, text).tolist() == [2.0, 2.0]
    assert relevance(token, text[:1]).tolist() == [2.0, 0.0]


def test_tokens_are_compared_with_the_first_frame_of_their_chunk(device: str) -> None:
    """A token that turns by 30° a frame: the third of a chunk is 60° from the first, though 30° from the one before."""
    angle = torch.deg2rad(torch.tensor([0.0, 30, 60, 90, 120], device=device))
    token = torch.stack([angle.cos(), angle.sin()], -1)[:, None]
    assert fresh_tokens(token, 0.8, 8)[:, 0].tolist() == [True, False, True, True, True]
    assert fresh_tokens(token, 0.8, 2)[:, 0].tolist() == [True, False, True, False, True]
    assert fresh_tokens(token.expand(-1, 3, -1), -1.0, 4).sum().item() == 6  # first frames alone
    assert fresh_tokens(token, 2.0, 4).all()


def test_each_chunk_loses_as_many_at_its_end() -> None:
    """Chunks of 8 and 2 tokens, one of them gone; of 9 at most 6: each loses two, and no more must go."""
    stays = torch.ones(5, 2, dtype=torch.bool)
    stays[1, 0] = False
    left = cut_tails(stays, 4, 6)
    assert left.int().tolist() == [[1, 1], [0, 1], [1, 1], [0, 0], [0, 0]]
    assert cut_tails(stays, 4, 9).equal(stays)
    # Of 9 at most 7: one off each chunk. Of 9 at most 2: four off each, one frame's two are fewer than that.
    assert cut_tails(stays, 4, 7).int().tolist() == [[1, 1], [0, 1], [1, 1], [1, 0], [1, 0]]
    assert cut_tails(stays, 4, 2).int().tolist() == [[1, 1], [0, 0], [0, 0], [0, 0], [0, 0]]


@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 4), st.integers(1, 60), st.integers(0, 2**30))
def test_no_more_stay_than_may(times: int, tokens: int, chunk: int, most: int, seed: int) -> None:
    stays = torch.rand(times, tokens, generator=torch.Generator().manual_seed(seed)) < 0.7
    stays[::chunk] = True
    left, chunks = cut_tails(stays, chunk, most), -(-times // chunk)
    assert not (left & ~stays).any()
    assert min(int(stays.sum()), most - chunks + 1) <= int(left.sum()) <= max(0, most)


def ask(lvlm: LVLM, frames: int, text: tuple[int, int], device: str) -> tuple[Request, VisionTokens]:
    """A request of frames between two texts, and random vision tokens of 4 × 4 a frame."""
    base = random_request(lvlm.config, frames=frames, text_tokens=2)
    words = torch.arange(sum(text)) % 90
    image = torch.full((frames,), base.image_token_id)
    request = replace(base, prompt_N=torch.cat([words[: text[0]], image, words[text[0] :]]))
    generator = torch.Generator().manual_seed(frames)
    token = torch.randn(frames, 16, 64, generator=generator).to(device)
    return request, VisionTokens(blocks_of(token), (4, 4))


def compressed(lvlm: LVLM, request: Request, tokens: VisionTokens, setting: LongVU) -> VisionTokens:
    acting = setting.begin(lvlm.begin(request))
    out: VisionTokens = acting.adapter_output(AdapterOutput(tokens))
    return out


def test_the_text_behind_the_video_decides(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request, tokens = ask(lvlm, 5, (6, 4), device)
    # 10 words and 16 more leave 44: 5 frames of 4 and two more fine ones of 16.
    out = compressed(lvlm, request, tokens, LongVU(context=70, low_side=2))
    token = torch.stack([block.token_ND for block in tokens.blocks])
    low = coarse(token, (4, 4), 2)
    score = relevance(low, lvlm.embed(request.prompt_N[-4:]))
    best = sorted(score.topk(2).indices.tolist())
    assert [time for time, length in enumerate(out.lengths) if length == 16] == best
    assert sorted(out.lengths) == [4, 4, 4, 16, 16]
    for time, block in enumerate(out.blocks):
        assert torch.equal(block.token_ND, token[time] if time in best else low[time])


@pytest.mark.parametrize(("room", "fine"), [(20, 0), (31, 0), (32, 1), (43, 1), (44, 2), (79, 4), (80, 5), (500, 5)])
def test_what_room_is_left_goes_to_fine_frames(device: str, room: int, fine: int) -> None:
    lvlm = LVLM.random(device=device)
    request, tokens = ask(lvlm, 5, (2, 4), device)
    out = compressed(lvlm, request, tokens, LongVU(context=room + 22, low_side=2))
    assert sorted(out.lengths) == [4] * (5 - fine) + [16] * fine


def test_frames_are_mixed_or_tokens_dropped_but_never_both(device: str) -> None:
    """With room for 19 tokens, one fewer than five coarse frames take, tokens of fine frames are dropped instead."""
    lvlm = LVLM.random(device=device)
    request, tokens = ask(lvlm, 5, (2, 4), device)
    out = compressed(lvlm, request, tokens, LongVU(context=19 + 22, low_side=2, chunk=2))
    fine = torch.stack([block.token_ND for block in tokens.blocks])
    stays = cut_tails(fresh_tokens(fine, 0.8, 2).cpu(), 2, 19)
    assert out.lengths == tuple(stays.sum(1).tolist())
    assert sum(out.lengths) <= 19


def test_tokens_are_dropped_from_fine_frames(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request, _ = ask(lvlm, 5, (2, 4), device)
    same = torch.randn(1, 16, 64, device=device).expand(5, -1, -1)
    out = compressed(lvlm, request, VisionTokens(blocks_of(same), (4, 4)), LongVU(context=19 + 22, low_side=2))
    assert out.lengths == (16, 0, 0, 0, 0)
    assert torch.equal(out.blocks[0].token_ND, same[0])


def test_what_fits_stays_as_it_is(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request, tokens = ask(lvlm, 5, (2, 4), device)
    assert compressed(lvlm, request, tokens, LongVU(context=80 + 22, low_side=2)) is tokens
    whole = random_request(lvlm.config)
    assert torch.equal(lvlm.run(whole, [LongVU()]).logits_NC, lvlm.run(whole).logits_NC)


def test_frames_go_only_where_even_coarse_ones_fill_the_context(device: str) -> None:
    """Six equal frames, coarsely 16 tokens each, beside 16 words: room for six frames is not room for more."""
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=6)
    still = replace(request, frames_F3HW=request.frames_F3HW[:1].expand(6, -1, -1, -1).clone())
    for room, left in ((96, 1), (111, 1), (112, 6)):
        trace = lvlm.run(still, [LongVU(context=room + 32, low_side=4)]).trace
        assert trace.frames == left
    assert lvlm.run(still, [LongVU(context=128, low_side=4, window=2)]).trace.frame_index.tolist() == [1, 3, 5]
    assert lvlm.run(still, [LongVU(context=128, low_side=4, window=2, max_frames=2)]).trace.frame_index.tolist() == [
        1,
        3,
    ]
    assert lvlm.run(still, [LongVU(context=128, low_side=4, frame_threshold=1.1)]).trace.frames == 6


@pytest.mark.parametrize("context", [60, 100, 150, 250, 400, 500])
def test_the_prompt_fits_the_context(device: str, context: int) -> None:
    lvlm = LVLM.random(device=device)
    for frames in (1, 5, 9):
        trace = lvlm.run(random_request(lvlm.config, frames=frames), [LongVU(context=context, low_side=3)]).trace
        assert trace.llm_tokens[0] + 16 <= context or trace.llm_vision_tokens[0] == 64 * frames
        assert trace.llm_tokens[0] + 16 <= max(context, 0)


def test_what_it_cannot_read_is_refused(device: str) -> None:
    lvlm, tiles = LVLM.random(device=device), LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config)
    with pytest.raises(Refusal, match="context must hold the text and 16 tokens more, got 32"):
        lvlm.run(request, [LongVU(context=32)])
    with pytest.raises(Refusal, match="frames must stand on a grid each"):
        tiles.run(random_request(tiles.config, frames=2), [LongVU(context=60, low_side=2)])
    with pytest.raises(StackError, match="needs `whole-grid`, which nobody finds behind ToMe"):
        lvlm.run(request, [ToMe(), LongVU()])
    window = LVLM.random("tiny-window", device=device)
    with pytest.raises(Refusal, match="its positions have several axes"):
        window.run(random_request(window.config), [LongVU()])


def test_a_lone_frame_that_is_too_long_is_cut(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request, tokens = ask(lvlm, 1, (2, 4), device)
    out = compressed(lvlm, request, tokens, LongVU(context=3 + 22, low_side=2))
    expected: Tensor = coarse(tokens.blocks[0].token_ND[None], (4, 4), 2)[0, :3]
    assert torch.equal(out.blocks[0].token_ND, expected)


@pytest.mark.parametrize("name", ["context", "low_side", "window", "chunk", "max_frames"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        LongVU(**{name: 0})


@pytest.mark.parametrize(("name", "value"), [("frame_threshold", 0.0), ("drop_threshold", 2.5)])
def test_thresholds_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must lie in"):
        LongVU(**{name: value})
