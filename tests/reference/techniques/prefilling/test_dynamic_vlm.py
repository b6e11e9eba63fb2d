"""Dynamic-VLM."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.techniques.encoding.visionzip import VisionZip
from lvlm_atlas.reference.techniques.prefilling.dynamic_vlm import DynamicVlm, frame_tokens, pool_to


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


@pytest.mark.parametrize(
    ("frames", "tokens"), [(1, 576), (5, 576), (6, 529), (22, 144), (32, 100), (100, 25), (129, 16), (3200, 1)]
)
def test_frames_share_the_cap_and_a_frame_has_a_limit_of_its_own(frames: int, tokens: int) -> None:
    assert frame_tokens(frames, 576, out_token_num=576, max_video_tokens=3200) == tokens
    assert frame_tokens(frames, 576, out_token_num=20, max_video_tokens=3200) == min(16, tokens)


def test_many_frames_get_one_token_each() -> None:
    assert frame_tokens(3201, 576, out_token_num=576, max_video_tokens=3200) == 1
    assert frame_tokens(1600, 576, out_token_num=576, max_video_tokens=3200) == 1


@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 90), st.integers(1, 900))
def test_the_part_of_a_frame_is_rounded_down_to_a_square_and_the_cap_holds(
    frames: int, side: int, most: int, cap: int
) -> None:
    tokens = frame_tokens(frames, side**2, most, cap)
    root = next(each for each in range(1, 10) if each**2 == tokens)
    assert tokens <= min(side**2, most)
    assert frames * tokens <= max(cap, frames)
    larger = (root + 1) ** 2  # the next square would not do
    assert larger > side**2 or larger > most or frames * larger > cap


def test_windows_overlap_where_the_sides_do_not_divide(device: str) -> None:
    patch = torch.arange(9.0, device=device).reshape(1, 9, 1)
    assert pool_to(patch, 4)[0, :, 0].tolist() == [2, 3, 5, 6]  # each of 2 × 2, the middle row and column twice
    assert pool_to(patch, 1).tolist() == [[[4]]]
    assert pool_to(patch, 9) is patch


def test_frames_and_channels_stay_apart_and_rows_stay_rows(device: str) -> None:
    patch = torch.randn(3, 16, 5, device=device)
    pooled = pool_to(patch, 4)
    for row in range(2):
        for column in range(2):
            places = [4 * (2 * row + r) + 2 * column + c for r in range(2) for c in range(2)]
            torch.testing.assert_close(pooled[:, 2 * row + column], patch[:, places].mean(1))


def test_the_means_are_of_features_and_the_projector_follows(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=3)
    run = lvlm.begin(request, [DynamicVlm(16, 48)])
    sequence = lvlm.prepare(run)
    plain = lvlm.begin(request)
    features = []
    own = lvlm.dialect.adapter
    hook = own.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    lvlm.prepare(plain)
    hook.remove()
    square = features[0].mT.unflatten(2, (8, 8))
    expected = own(functional.avg_pool2d(square, 2).flatten(2).mT)
    torch.testing.assert_close(sequence.hidden_BND[sequence.vision_BN], expected.flatten(0, 1))
    behind = functional.avg_pool2d(own(features[0]).mT.unflatten(2, (8, 8)), 2).flatten(2).mT
    assert not torch.allclose(expected, behind, atol=1e-3)


@pytest.mark.parametrize(("frames", "each"), [(1, 25), (2, 25), (4, 16), (60, 1)])
def test_the_llm_reads_fewer_tokens_of_each_frame_the_more_there_are(lvlm: LVLM, frames: int, each: int) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=frames, max_new_tokens=1), [DynamicVlm(30, 64)]).trace
    assert trace.llm_vision_tokens == [frames * each] * 4
    assert trace.adapter_flop == 2 * frames * each * (32 * 64 + 64 * 64)


def test_one_image_keeps_everything(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    assert torch.equal(lvlm.run(request, [DynamicVlm()]).logits_NC, lvlm.run(request).logits_NC)


def test_what_is_no_whole_square_is_refused(lvlm: LVLM) -> None:
    with pytest.raises(Refusal, match="needs `whole-grid`, which nobody finds behind VisionZip"):
        lvlm.run(random_request(lvlm.config), [VisionZip(54, 10), DynamicVlm()])


def test_parameters_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="out_token_num must be at least 1, got 0"):
        DynamicVlm(0)
    with pytest.raises(ValueError, match="max_video_tokens must be at least 1, got 0"):
        DynamicVlm(1, 0)
