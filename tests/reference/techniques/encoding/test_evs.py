"""Efficient Video Sampling."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens, blocks_of, grid_places
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.techniques.encoding.evs import EVS, dissimilarity, kept_count, retention_mask


def turned(*degrees: float) -> torch.Tensor:
    """A unit vector of width 2 for each angle."""
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def test_dissimilarity_by_hand(device: str) -> None:
    token_TND = torch.stack([turned(0, 0), turned(90, 60) * 5, turned(90, 240)]).to(device)
    torch.testing.assert_close(dissimilarity(token_TND).cpu(), torch.tensor([[0.0, 0.0], [1.0, 0.5], [0.0, 2.0]]))


def test_all_of_the_first_frame_stays_and_then_what_changed_most(device: str) -> None:
    # Turned since the frame before by 10, 40, 0 and by 90, 20, 30 degrees.
    token_TND = torch.stack([turned(0, 0, 0), turned(10, 40, 0), turned(100, 60, 30)]).to(device)
    assert retention_mask(token_TND, 1 - 5.5 / 9).int().tolist() == [[1, 1, 1], [0, 1, 0], [1, 0, 0]]
    assert retention_mask(token_TND, 1 - 6.5 / 9).int().tolist() == [[1, 1, 1], [0, 1, 0], [1, 0, 1]]


def test_the_first_frame_stays_whatever_changes_later(device: str) -> None:
    token_TND = torch.stack([turned(0, 0), turned(180, 180), turned(0, 0)]).to(device)  # dissimilarity 2, the most
    for rate in (0.5, 0.7, 0.99):
        assert retention_mask(token_TND, rate)[0].all()
    assert not retention_mask(token_TND, 0.99)[1:].any()


def test_tokens_are_compared_with_the_frame_before_and_not_with_what_was_kept(device: str) -> None:
    # One place drifts by 20 degrees a frame, the other jumps once by 50: at any time the jump is larger than the step.
    drift = [turned(20 * frame, 0 if frame < 3 else 50) for frame in range(6)]
    mask = retention_mask(torch.stack(drift).to(device), 1 - 3.5 / 12)
    assert mask.nonzero().tolist() == [[0, 0], [0, 1], [3, 1]]


def test_one_ranking_holds_for_the_whole_video(device: str) -> None:
    token_TND = torch.stack([turned(0, 0), turned(1, 2), turned(91, 92)]).to(device)
    mask = retention_mask(token_TND, 1 - 4.5 / 6)
    assert mask.sum(1).tolist() == [2, 0, 2]  # the quiet frame keeps nothing


def test_a_still_video_keeps_its_earliest_tokens(device: str) -> None:
    token_TND = torch.ones(4, 3, 2, device=device)
    assert retention_mask(token_TND, 0.5).flatten().nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert retention_mask(token_TND, 0.4).flatten().nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_lengths_of_tokens_say_nothing(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    token_TND = torch.randn(5, 7, 4, generator=generator)
    scale_TN1 = torch.rand(5, 7, 1, generator=generator) * 10 + 0.1
    for rate in (0.2, 0.5, 0.8):
        one, two = (retention_mask(each.to(device), rate) for each in (token_TND, token_TND * scale_TN1))
        assert torch.equal(one, two)


@given(st.integers(1, 6), st.integers(1, 9), st.floats(0, 0.99), st.integers(0, 100))
def test_as_many_stay_as_said_and_none_that_changed_less_than_one_dropped(
    frames: int, tokens: int, rate: float, seed: int
) -> None:
    token_TND = torch.randn(frames, tokens, 3, generator=torch.Generator().manual_seed(seed))
    mask, score = retention_mask(token_TND, rate), dissimilarity(token_TND)
    assert int(mask.sum()) == kept_count(frames, tokens, rate) == max(tokens, int(frames * tokens * (1 - rate)))
    kept, dropped = score[1:][mask[1:]], score[1:][~mask[1:]]
    if len(kept) and len(dropped):
        assert kept.min() >= dropped.max()


def test_the_count_is_cut_and_not_rounded() -> None:
    assert kept_count(5, 2, 0.15) == 8  # of 8.5
    assert kept_count(3, 10, 0.63) == 11  # of 11.1
    assert kept_count(10, 1, 0.9) == 1  # 10 · (1 − 0.9) is 0.99… in floating point
    assert kept_count(4, 5, 0.99) == 5
    assert kept_count(4, 5, 0.0) == 20


def test_kept_tokens_keep_their_places_and_deepstack_features(device: str) -> None:
    token_TND = torch.randn(3, 6, 4, device=device)
    deep_TNLD = torch.randn(3, 6, 2, 4, device=device)
    tokens = VisionTokens(
        blocks_of(token_TND, grid_places(2, 3).expand(3, -1, -1), deep_TNLD), (2, 3), torch.tensor([0.0, 2.0, 4.0])
    )
    left = EVS(0.5).adapter_output(AdapterOutput(tokens))
    mask_TN = retention_mask(token_TND, 0.5)
    assert left.grid == (2, 3)
    assert left.time_T is not None
    assert left.time_T.tolist() == [0, 2, 4]
    for frame, block in enumerate(left.blocks):
        assert torch.equal(block.token_ND, token_TND[frame][mask_TN[frame]])
        assert block.place_N2 is not None
        assert torch.equal(block.place_N2, grid_places(2, 3)[mask_TN[frame].cpu()])
        assert block.deepstack_NLD is not None
        assert torch.equal(block.deepstack_NLD, deep_TNLD[frame][mask_TN[frame]])


@pytest.mark.parametrize("preset", ["tiny-window", "tiny-deepstack"])
def test_positions_are_those_of_the_whole_video(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=6, max_new_tokens=1)
    whole, cut = (lvlm.begin(request, stack) for stack in ([], [EVS(0.5)]))
    lvlm.prepare(whole), lvlm.prepare(cut)
    assert whole.prompt is not None
    assert cut.prompt is not None

    def ids(prompt, vision: bool) -> list[tuple[int, ...]]:  # type: ignore[no-untyped-def]
        return [tuple(each) for each in prompt.position_BN[0][(prompt.vision_BN[0] == vision).cpu()].tolist()]

    assert {*ids(cut.prompt, True)} < {*ids(whole.prompt, True)}
    assert len(ids(cut.prompt, True)) == 45
    assert ids(cut.prompt, False) == ids(whole.prompt, False)  # text is where it was
    assert torch.equal(cut.prompt.next_B.cpu(), whole.prompt.next_B.cpu())  # type: ignore[union-attr]


@pytest.mark.parametrize("preset", ["tiny", "tiny-tiles"])
def test_the_llm_reads_what_stays(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=2)
    bare, run = lvlm.run(request).trace, lvlm.run(request, [EVS(0.6)]).trace
    whole = bare.llm_vision_tokens[0]
    assert run.llm_vision_tokens == [int(whole * (1 - 0.6))] * len(run.llm_vision_tokens)
    assert run.text_tokens == bare.text_tokens


def test_a_single_frame_and_a_rate_of_zero_change_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    for frames, rate in ((1, 0.9), (4, 0.0)):
        request = random_request(lvlm.config, frames=frames, max_new_tokens=2)
        assert torch.equal(lvlm.run(request).logits_NC, lvlm.run(request, [EVS(rate)]).logits_NC)


def test_frames_of_different_lengths_are_refused(device: str) -> None:
    blocks = (Block(torch.randn(3, 4, device=device)), Block(torch.randn(2, 4, device=device)))
    with pytest.raises(Refusal, match="token by token, these have 2, 3"):
        EVS().adapter_output(AdapterOutput(VisionTokens(blocks)))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_parameters_outside_their_range_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="pruning_rate must lie in"):
        EVS(rate)
