"""TimeChat-Online's differential token drop."""

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens, blocks_of, grid_places
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.techniques.prefilling.timechat_online import TimeChatOnline, differential_mask


def turned(*degrees: float) -> Tensor:
    """A unit vector of width 2 for each angle."""
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def video(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def test_what_turned_by_more_than_the_threshold_stays(device: str) -> None:
    # Turned since the frame before by 50, 70, 0 and by 120, 30, 61 degrees; 60 is the limit.
    token_TND = torch.stack([turned(0, 0, 0), turned(50, 70, 0), turned(170, 100, 61)]).to(device)
    assert differential_mask(token_TND, 0.5).int().tolist() == [[1, 1, 1], [0, 1, 0], [1, 0, 1]]
    assert differential_mask(token_TND, -0.4).int().tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]


def test_a_token_at_the_threshold_stays(device: str) -> None:
    token_TND = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [1.0, 0.1]]], device=device)  # cosines 0 and 0.995
    assert differential_mask(token_TND, 0.0)[1].tolist() == [True, False]


def test_the_first_frame_stays_whatever_is_asked(device: str) -> None:
    token_TND = torch.ones(4, 3, 2, device=device)
    for threshold, absolute in ((0.5, True), (-1.0, True), (1.0, False)):
        assert differential_mask(token_TND, threshold, absolute).tolist() == [[True] * 3] + [[False] * 3] * 3


def test_tokens_are_compared_with_the_frame_before_and_not_with_what_was_kept(device: str) -> None:
    drift = [turned(40 * frame, 0 if frame < 3 else 90) for frame in range(6)]  # 200 degrees in the end
    mask = differential_mask(torch.stack(drift).to(device), 0.5)
    assert mask.nonzero().tolist() == [[0, 0], [0, 1], [3, 1]]


def test_a_higher_cosine_keeps_more_and_a_higher_share_less(device: str) -> None:
    token_TND = video(5, 16, 3, device=device)
    kept = [int(differential_mask(token_TND, threshold).sum()) for threshold in (-1, -0.5, 0, 0.5, 0.9, 1)]
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (16, 80)
    kept = [int(differential_mask(token_TND, share, absolute=False).sum()) for share in (0, 0.2, 0.5, 0.9, 1)]
    assert kept == [80, 80 - 4 * 3, 80 - 4 * 8, 80 - 4 * 14, 16]


def test_each_later_frame_loses_the_same_share_rounded_down(device: str) -> None:
    # By 10, 20, 30 degrees in the second frame and by 100, 110, 90 in the third: the video's still frame is the second.
    token_TND = torch.stack([turned(0, 0, 0), turned(10, 20, 30), turned(110, 130, 120)]).to(device)
    assert differential_mask(token_TND, 0.4, absolute=False).int().tolist() == [[1, 1, 1], [0, 1, 1], [1, 1, 0]]
    assert differential_mask(token_TND, 0.99, absolute=False).int().tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 0]]
    assert differential_mask(token_TND, 0.33, absolute=False).all()


def test_lengths_of_tokens_say_nothing(device: str) -> None:
    token_TND = video(5, 7, 4, device=device)
    scale_TN1 = video(5, 7, 1, seed=1, device=device).abs() + 0.1
    for threshold, absolute in ((-0.3, True), (0.2, True), (0.5, False)):
        one, two = (differential_mask(each, threshold, absolute) for each in (token_TND, token_TND * scale_TN1))
        assert torch.equal(one, two)


def test_a_threshold_of_one_keeps_equal_tokens(device: str) -> None:
    token_TND = video(1, 200, 37, device=device).expand(3, -1, -1)
    assert differential_mask(token_TND, 1.0).all()
    assert not differential_mask(token_TND, 0.999)[1:].any()


def one_by_one(token_TND: Tensor, threshold: float) -> list[list[bool]]:
    """The rule, a token at a time."""
    kept = [[True] * token_TND.shape[1]]
    for before, now in zip(token_TND[:-1].double(), token_TND[1:].double(), strict=True):
        kept.append([float(a @ b / a.norm() / b.norm()) <= threshold for a, b in zip(before, now, strict=True)])
    return kept


@pytest.mark.parametrize("seed", range(6))
def test_the_mask_is_that_of_a_loop(device: str, seed: int) -> None:
    token_TND = video(1 + seed, 3 + 2 * seed, 4, seed=seed, device=device)
    for threshold in (-0.7, -0.05, 0.31, 0.8):
        assert differential_mask(token_TND, threshold).tolist() == one_by_one(token_TND, threshold)


def test_kept_tokens_keep_their_places_and_deepstack_features(device: str) -> None:
    token_TND, deep_TNLD = video(3, 6, 4, device=device), video(3, 6, 2, 4, seed=1, device=device)
    places = grid_places(2, 3)
    tokens = VisionTokens(blocks_of(token_TND, places.expand(3, -1, -1), deep_TNLD), (2, 3), torch.tensor([0, 2, 4]))
    left = TimeChatOnline(0.0).adapter_output(AdapterOutput(tokens))
    mask_TN = differential_mask(token_TND, 0.0)
    assert 6 < int(mask_TN.sum()) < 18
    assert left.grid == (2, 3)
    for frame, block in enumerate(left.blocks):
        assert torch.equal(block.token_ND, token_TND[frame][mask_TN[frame]])
        assert block.place_N2 is not None
        assert torch.equal(block.place_N2, places[mask_TN[frame].cpu()])
        assert block.deepstack_NLD is not None
        assert torch.equal(block.deepstack_NLD, deep_TNLD[frame][mask_TN[frame]])


def test_the_first_frame_of_each_clip_stays_whole(device: str) -> None:
    acting, token_TND = TimeChatOnline(0.5), torch.ones(2, 3, 4, device=device)
    for _ in range(2):
        left = acting.adapter_output(AdapterOutput(VisionTokens(blocks_of(token_TND))))
        assert left.lengths == (3, 0)


@pytest.mark.parametrize("preset", ["tiny-window", "tiny-deepstack"])
def test_positions_are_those_of_the_whole_video(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=6, max_new_tokens=1)
    whole, cut = (lvlm.begin(request, stack) for stack in ([], [TimeChatOnline(0.4, absolute=False)]))
    lvlm.prepare(whole), lvlm.prepare(cut)
    assert whole.prompt is not None
    assert cut.prompt is not None

    def ids(prompt, vision: bool) -> list[tuple[int, ...]]:  # type: ignore[no-untyped-def]
        return [tuple(each) for each in prompt.position_BN[0][(prompt.vision_BN[0] == vision).cpu()].tolist()]

    assert {*ids(cut.prompt, True)} < {*ids(whole.prompt, True)}
    assert ids(cut.prompt, False) == ids(whole.prompt, False)  # text is where it was
    assert torch.equal(cut.prompt.next_B.cpu(), whole.prompt.next_B.cpu())  # type: ignore[union-attr]


def test_a_single_frame_and_a_threshold_of_one_change_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    for frames, setting in ((1, TimeChatOnline(-1.0)), (4, TimeChatOnline(1.0)), (4, TimeChatOnline(0.0, False))):
        request = random_request(lvlm.config, frames=frames, max_new_tokens=2)
        assert torch.equal(lvlm.run(request).logits_NC, lvlm.run(request, [setting]).logits_NC)


def test_a_still_video_costs_one_frame(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=2)
    request.frames_F3HW[1:] = request.frames_F3HW[:1].clone()
    whole, run = lvlm.run(request).trace, lvlm.run(request, [TimeChatOnline(0.9)]).trace
    assert run.llm_vision_tokens == [count // 4 for count in whole.llm_vision_tokens]
    assert run.text_tokens == whole.text_tokens


def test_frames_of_different_lengths_are_refused(device: str) -> None:
    blocks = (Block(torch.randn(3, 4, device=device)), Block(torch.randn(2, 4, device=device)))
    with pytest.raises(Refusal, match="token by token, these have 2, 3"):
        TimeChatOnline().adapter_output(AdapterOutput(VisionTokens(blocks)))


@pytest.mark.parametrize(("threshold", "absolute"), [(-1.1, True), (1.1, True), (-0.1, False), (1.1, False)])
def test_parameters_outside_their_range_are_refused(threshold: float, absolute: bool) -> None:
    with pytest.raises(ValueError, match=r"threshold must lie in \[(-1, 1\] \(a cosine|0, 1\] \(a share)"):
        TimeChatOnline(threshold, absolute)
