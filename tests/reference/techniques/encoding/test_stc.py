"""STC's pruner."""

import math

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens, blocks_of
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.techniques.encoding.stc import ALPHAS, STC, Pruning, quiet_channels, redundancy, similarity


def lengths_and_places(pruning: Pruning, token_TND: Tensor) -> list[list[int]]:
    """The places that stay of each frame, found by the tokens that are left."""
    left = pruning.adapter_output(AdapterOutput(VisionTokens(blocks_of(token_TND))))
    return [
        [int((whole_ND == kept_D).all(-1).nonzero()[0]) for kept_D in block.token_ND]
        for whole_ND, block in zip(token_TND, left.blocks, strict=True)
    ]


def test_the_channels_that_vary_least_are_taken_in_that_order(device: str) -> None:
    token_MD = torch.tensor([[0.0, 5, 1, 2, 7], [4.0, 5, 2, 4, 7.5]], device=device)  # variances 4, 0, 1/4, 1, 1/16
    assert quiet_channels(token_MD).tolist() == [1, 4]
    assert quiet_channels(token_MD[:, :4]).tolist() == [1, 2]
    assert quiet_channels(torch.ones(3, 6, device=device)).tolist() == [0, 1, 2]  # of equals the first


def test_similarity_by_hand(device: str) -> None:
    token_FNC = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]], device=device)
    score_FN = similarity(token_FNC, torch.zeros(1, 1, 2, device=device))
    want = [5.0, *(sum(math.exp(-squared / (2 * alpha)) for alpha in (0.125, 0.25, 0.5, 1, 2)) for squared in (1, 2))]
    torch.testing.assert_close(score_FN.cpu(), torch.tensor([want]))
    assert ALPHAS == (0.125, 0.25, 0.5, 1, 2)


def test_lengths_of_tokens_say_nothing_to_the_frame(device: str) -> None:
    # Two directions; the mean of the frame is that of unit vectors, so that one long token does not pull it.
    token_FNC = torch.tensor([[[1.0, 0], [1, 0], [0, 50.0]]], device=device)
    score_FN = redundancy(token_FNC, torch.tensor([1.0, 1.0], device=device))
    assert score_FN[0, 0] == score_FN[0, 1] > score_FN[0, 2]


def test_the_least_similar_tokens_stay_in_reading_order(device: str) -> None:
    token_TND = torch.tensor(
        [[[1.0, 0, 9, 0], [1, 0, 0, 9], [0, 1, 0, 0], [1, 0, 3, 3], [1, 0.1, 0, 0]]], device=device
    )
    # Channels 0 and 1 vary least; in them token 2 stands alone, and of the four others token 4 is turned a little.
    assert lengths_and_places(STC(1).begin(None), token_TND) == [[2]]  # type: ignore[arg-type]
    assert lengths_and_places(STC(2).begin(None), token_TND)[0][0] in (0, 2)  # type: ignore[arg-type]
    places = lengths_and_places(STC(3).begin(None), token_TND)[0]  # type: ignore[arg-type]
    assert places == sorted(places)


def test_the_past_counts_as_well_as_the_frame(device: str) -> None:
    generator = torch.Generator().manual_seed(3)
    past, now = torch.randn(2, 1, 12, 8, generator=generator).to(device)
    fresh = Pruning(STC(4)).keep(now)
    pruning = Pruning(STC(4))
    for _ in range(30):
        pruning.keep(past)
    assert not torch.equal(pruning.keep(now), fresh)
    assert len(pruning.memory) == 31


def test_the_memory_is_the_mean_of_chunks_the_current_one_among_them(device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    chunks = torch.randn(3, 2, 6, 8, generator=generator).to(device)
    pruning = Pruning(STC(3, 2))
    for chunk in chunks:
        found = pruning.keep(chunk)
    chosen = [chunk[..., quiet_channels(chunk.flatten(0, 1))] for chunk in chunks]
    memory_C = torch.stack([each.mean((0, 1)) for each in chosen]).mean(0)
    score_FN = redundancy(chosen[-1], memory_C)
    want = [sorted(sorted(range(6), key=lambda place: float(row[place]))[:3]) for row in score_FN]
    assert found.tolist() == want


def test_channels_are_chosen_anew_for_each_chunk(device: str) -> None:
    # In the first chunk channels 0 and 1 are quiet, in the second 2 and 3: memory averages them place by place.
    noise = torch.tensor([[-3.0, -3], [3, 3]])
    one = torch.cat([torch.tensor([[2.0, 4.0]]).expand(2, 2), noise], dim=1)[None].to(device)
    two = torch.cat([noise, torch.tensor([[6.0, 8.0]]).expand(2, 2)], dim=1)[None].to(device)
    pruning = Pruning(STC(1))
    pruning.keep(one), pruning.keep(two)
    assert [each.tolist() for each in pruning.memory] == [[2.0, 4.0], [6.0, 8.0]]


def test_chunks_follow_one_another_and_the_last_may_be_short(device: str) -> None:
    token_TND = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(2)).to(device)
    whole = lengths_and_places(Pruning(STC(3, 2)), token_TND)
    pruning = Pruning(STC(3, 2))
    apart = [place for first in (0, 2, 4) for place in pruning.keep(token_TND[first : first + 2]).tolist()]
    assert whole == apart
    assert len(pruning.memory) == 3


def test_every_frame_keeps_equally_many(device: str) -> None:
    token_TND = torch.randn(4, 9, 6, device=device)
    assert [len(each) for each in lengths_and_places(Pruning(STC(5)), token_TND)] == [5] * 4
    pruning = Pruning(STC(9))
    tokens = VisionTokens(blocks_of(token_TND))
    assert pruning.adapter_output(AdapterOutput(tokens)) is tokens
    assert len(pruning.memory) == 4  # though nothing is dropped, it is seen


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack", "tiny-tiles"])
def test_the_llm_reads_so_many_tokens_a_frame(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=2)
    run = lvlm.run(request, [STC(11)])
    encoded = 2 if preset in ("tiny-window", "tiny-deepstack") else 4
    assert run.trace.llm_vision_tokens[0] == 11 * encoded


def test_a_session_remembers_earlier_rounds_and_a_run_begins_anew(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=3, max_new_tokens=2)
    one, again = (lvlm.run(request, [STC(11)]) for _ in range(2))
    assert torch.equal(one.logits_NC, again.logits_NC)
    first, later = (VisionTokens(blocks_of(torch.randn(2, 6, 8, device=device))) for _ in range(2))
    pruning = Pruning(STC(3))
    for tokens in (first, later):
        pruning.adapter_output(AdapterOutput(tokens))
    assert len(pruning.memory) == 4  # both rounds


def test_frames_of_different_lengths_are_refused(device: str) -> None:
    blocks = (Block(torch.randn(3, 4, device=device)), Block(torch.randn(2, 4, device=device)))
    with pytest.raises(Refusal, match="these have 2, 3"):
        Pruning(STC(1)).adapter_output(AdapterOutput(VisionTokens(blocks)))


@pytest.mark.parametrize("name", ["tokens_per_frame", "chunk_frames"])
def test_parameters_outside_their_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        STC(**{name: 0})
