"""Video-ChatGPT's pooling over patches and over frames."""

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.techniques.encoding.video_chatgpt import VideoChatGPT, pooled, segment_middles


def encoded(patch_FND: Tensor, frames: int) -> Tensor:
    """What the technique makes of patches behind a class token of 1000."""
    class_F1D = torch.full_like(patch_FND[:, :1], 1000)
    patches = Patches(torch.cat([class_F1D, patch_FND], dim=1), prefix=1)
    out = VideoChatGPT(max_frames=frames).encoder_output(EncoderOutput(patches))
    assert out.prefix == 0
    return out.hidden_FND


def test_temporal_tokens_are_means_over_patches_and_stand_first(device: str) -> None:
    x = torch.tensor([[[0.0], [2], [4]], [[10], [20], [60]]], device=device)
    assert pooled(x, 2)[:, 0].tolist() == [2, 30, 5, 11, 32]


def test_the_class_token_takes_no_part(device: str) -> None:
    x = torch.rand(3, 4, 2, device=device)
    assert torch.equal(encoded(x, 3)[0], pooled(x, 3))
    assert encoded(x, 3).max() < 1


def test_missing_frames_are_zeros_before_the_adapter(device: str) -> None:
    out = encoded(torch.ones(2, 5, 3, device=device), 4)
    assert out.shape == (1, 4 + 5, 3)
    assert out[0, :, 0].tolist() == [1, 1, 0, 0, 1, 1, 1, 1, 1]
    lvlm = LVLM.random(device=device)
    lvlm.dialect.adapter.linear_1.bias.data.fill_(1)
    request = random_request(lvlm.config, frames=2)
    seen = {}
    hook = lvlm.dialect.adapter.register_forward_hook(lambda _module, given, _made: seen.update(x=given[0]))
    one = lvlm.run(request, [VideoChatGPT(4)])
    hook.remove()
    assert seen["x"].shape == (1, 4 + 64, 32)
    assert not seen["x"][0, 2:4].any()
    assert seen["x"][0, :2].any(-1).all()
    assert one.trace.llm_vision_tokens == [4 + 64] * 4  # the zeros are among them


def test_pooling_comes_before_the_adapter(device: str) -> None:
    lvlm = LVLM.random(device=device)
    x = torch.randn(3, 8, 32, device=device)
    adapter = lvlm.dialect.adapter
    with torch.inference_mode():
        before, after = adapter(pooled(x, 3)), pooled(adapter(x), 3)
        assert not torch.allclose(before, after, atol=1e-3)
        linear = adapter.linear_1
        torch.testing.assert_close(linear(pooled(x, 3)), pooled(linear(x), 3))


def test_the_mean_of_either_kind_is_that_of_the_video(device: str) -> None:
    x = torch.randn(6, 10, 4, dtype=torch.float64, device=device)
    out = pooled(x, 6)
    torch.testing.assert_close(out[:6].mean(0), x.mean((0, 1)))
    torch.testing.assert_close(out[6:].mean(0), x.mean((0, 1)))
    same = x[:1].expand(4, -1, -1)
    torch.testing.assert_close(pooled(same, 4)[4:], x[0])


def test_a_short_video_is_read_whole() -> None:
    assert segment_middles(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert segment_middles(3, 100).tolist() == [0, 1, 2]


def test_of_a_long_video_the_middles_of_its_segments_are_read() -> None:
    # Segments of 2.25 frames from 0, 2.25, 4.5, 6.75 to 9, whose edges are rounded to 0, 2, 4, 7 and 9.
    assert segment_middles(10, 4).tolist() == [1, 3, 5, 8]
    assert segment_middles(6, 5).tolist() == [0, 1, 2, 3, 4]
    assert segment_middles(9, 1).tolist() == [4]
    for frames in range(2, 60):
        for keep in range(1, frames):
            kept = segment_middles(frames, keep)
            assert len(kept) == keep
            assert kept[0] >= 0
            assert kept[-1] < frames
            assert (kept.diff() > 0).all()


@pytest.mark.parametrize(("frames", "most"), [(1, 4), (6, 4), (9, 9), (3, 100)])
def test_the_llm_starts_from_a_token_a_frame_and_one_a_place(device: str, frames: int, most: int) -> None:
    lvlm = LVLM.random("tiny-mha", device=device)
    trace = lvlm.run(random_request(lvlm.config, frames=frames), [VideoChatGPT(most)]).trace
    assert trace.frames == min(frames, most)
    assert trace.llm_vision_tokens == [most + 36] * 3


def test_each_view_of_a_tiled_frame_counts_as_one(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config, frames=2)
    views = sum(len(clip.frames_F3HW) for clip in lvlm.dialect.split(request))
    assert views > 4
    assert lvlm.run(request, [VideoChatGPT(4)]).trace.llm_vision_tokens == [views + 16] * 3


def test_parameters_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="max_frames must be at least 1, got 0"):
        VideoChatGPT(0)
