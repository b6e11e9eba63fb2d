"""Video-XL-2, chunk-based prefilling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.techniques.prefilling.video_xl_2 import VideoXL2, chunk_of, in_reach

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def prompt(before: int, groups: list[int], stamp: int, behind: int, device: str) -> Tensor:
    """True at vision tokens: text, groups with a timestamp of so many tokens before each, text."""
    parts = [torch.zeros(before)]
    for tokens in groups:
        parts += [torch.zeros(stamp), torch.ones(tokens)]
    return torch.cat([*parts, torch.zeros(behind)]).bool().to(device)


def released(vision: Tensor, size: int, previous: int, groups: list[int], before: int, stamp: int) -> Tensor:
    """The mask as the released code builds it, chunk by chunk: whole blocks of True, then text, then causality."""
    mask = torch.zeros(len(vision), len(vision), dtype=torch.bool)
    starts, at = [], before
    for tokens in groups:
        starts.append(at)
        at += stamp + tokens
    end_of_video, start, chunks = at, before, []
    for chunk in range(-(-len(groups) // size)):
        following = (chunk + 1) * size
        end = starts[following] if following < len(groups) else end_of_video
        mask[start:end, start:end] = True
        first = chunks[-previous] if len(chunks) >= previous else before
        mask[start:end, first:start] = True
        chunks.append(start)
        start = end
    mask[:, :before] = True
    mask[end_of_video:] = True
    for place in (~vision).nonzero()[:, 0].tolist():
        if before <= place < end_of_video:
            mask[place] = True
            mask[:, place] = True
    return mask.tril()


@pytest.mark.parametrize("previous", [1, 2, 7])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    ("count", "stamp", "before", "behind"), [(1, 2, 3, 4), (5, 2, 3, 4), (7, 1, 0, 1), (6, 3, 1, 0)]
)
def test_the_mask_is_that_of_the_released_loop(
    device: str, previous: int, size: int, count: int, stamp: int, before: int, behind: int
) -> None:
    groups = [3] * count
    vision = prompt(before, groups, stamp, behind, device)
    mask = in_reach(chunk_of(vision, 3 * size), previous)
    assert torch.equal(mask.cpu(), released(vision.cpu(), size, previous, groups, before, stamp))


def test_chunks_count_vision_tokens_alone(device: str) -> None:
    vision = prompt(2, [3, 3, 3], 2, 1, device)
    assert chunk_of(vision, 6).tolist() == [-1, -1, -1, -1, 0, 0, 0, -1, -1, 0, 0, 0, -1, -1, 1, 1, 1, -1]


def test_text_sees_all_and_is_seen_by_all(device: str) -> None:
    vision = prompt(1, [2] * 6, 1, 2, device)
    mask = in_reach(chunk_of(vision, 2), 1)
    text = ~vision
    dense = torch.ones_like(mask).tril()
    assert torch.equal(mask[text], dense[text])
    assert torch.equal(mask[:, text], dense[:, text])
    last, first = vision.nonzero()[-1, 0], vision.nonzero()[0, 0]
    assert not mask[last, first]


def test_reach_moves_in_whole_chunks(device: str) -> None:
    vision = torch.ones(12, dtype=torch.bool, device=device)
    mask = in_reach(chunk_of(vision, 4), 1)
    assert mask[8].nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8]
    assert mask[11].nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_a_run_computes_what_is_in_reach(preset: str, device: str) -> None:
    model = LVLM.random(preset, device=device)
    request = random_request(model.config, frames=8)
    plain = model.run(request)
    result = model.run(request, [VideoXL2(block_size=1, previous_chunks=1, group_frames=1)])
    blocks = -(-8 // model.config.frames_a_patch)
    tokens = plain.trace.llm_vision_tokens[0] // blocks
    hidden = sum(tokens**2 for i in range(blocks) for j in range(i - 1))
    heads = model.config.text.num_attention_heads
    assert hidden > 0
    assert result.trace.score_entries == [n - heads * hidden for n in plain.trace.score_entries]
    assert result.trace.kv_entries == plain.trace.kv_entries
    assert not torch.allclose(result.logits_NC, plain.logits_NC, atol=1e-3)


def test_all_chunks_in_reach_are_dense_attention(device: str) -> None:
    model = LVLM.random(device=device)
    request = random_request(model.config)
    plain = model.run(request)
    for technique in (VideoXL2(1, 5, 1), VideoXL2(6, 1, 1), VideoXL2()):
        same = model.run(request, [technique])
        torch.testing.assert_close(same.logits_NC, plain.logits_NC, **CLOSE)
        assert same.trace.score_entries == plain.trace.score_entries


def test_a_prompt_without_frames_is_left_alone(device: str) -> None:
    model = LVLM.random(device=device)
    request = random_request(model.config, frames=1)
    request = replace(request, frames_F3HW=request.frames_F3HW[:0], prompt_N=torch.arange(5, 15))
    plain, same = model.run(request), model.run(request, [VideoXL2()])
    torch.testing.assert_close(same.logits_NC, plain.logits_NC)


@pytest.mark.parametrize("wrong", [{"block_size": 0}, {"previous_chunks": 0}, {"group_frames": 0}])
def test_illegal_values_are_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VideoXL2(**wrong)
