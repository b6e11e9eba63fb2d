"""Video-LLaMA's Q-Former of all frames."""

import pytest
import torch

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.techniques.encoding.video_llama import VideoLlama, VideoQFormer, evenly

SMALL = VideoLlama(queries=8, frame_queries=4, frame_layers=3, width=24, heads=4)


def adapter(device: str, setting: VideoLlama = SMALL) -> VideoQFormer:
    """From features of width 6 to tokens of width 10."""
    return drawn(lambda: VideoQFormer(6, 10, setting), device=device)


def test_a_video_costs_so_many_tokens_whatever_it_has_of_frames(device: str) -> None:
    for frames in (1, 2, 32):
        assert adapter(device)(torch.randn(frames, 9, 6, device=device)).shape == (1, 8, 10)


def test_the_video_q_former_reads_the_frames_in_every_layer(device: str) -> None:
    module = adapter(device, VideoLlama(4, 8, 3, 4, 6, 24, 4))
    assert all(layer.cross_attention is not None for layer in module.video_qformer.layers)
    reads = [layer.cross_attention is not None for layer in module.frame_qformer.layers]
    assert reads == [True, False, True, False, True, False]


def test_positions_are_added_between_both_q_formers(device: str) -> None:
    module, x = adapter(device), torch.randn(3, 9, 6, device=device)
    seen = []
    module.video_qformer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    module(x)
    alone = module.frame_qformer(module.vision_norm(x))
    assert seen[0].shape == (1, 3 * 4, 24)
    for frame in range(3):
        expected = alone[frame] + module.frame_position.weight[frame]
        torch.testing.assert_close(seen[0][0, 4 * frame : 4 * frame + 4], expected)


def test_the_order_of_frames_matters_through_positions_alone(device: str) -> None:
    module, x = adapter(device), torch.randn(3, 9, 6, device=device)
    assert not torch.allclose(module(x), module(x.flip(0)), atol=1e-3)
    module.frame_position.weight.data.zero_()
    torch.testing.assert_close(module(x), module(x.flip(0)))


def test_the_order_of_patches_does_not_matter(device: str) -> None:
    module, x = adapter(device), torch.randn(3, 9, 6, device=device)
    torch.testing.assert_close(module(x), module(x[:, torch.randperm(9, device=device)]))


def test_frames_are_the_first_of_equal_stretches() -> None:
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly(5, 8).tolist() == [0, 1, 2, 3, 4]
    assert evenly(8, 8).tolist() == list(range(8))
    assert evenly(9, 1).tolist() == [0]


@pytest.mark.parametrize(("frames", "most"), [(6, 32), (6, 4), (1, 2)])
def test_the_llm_starts_from_the_queries_and_the_work_is_counted(device: str, frames: int, most: int) -> None:
    lvlm = LVLM.random(device=device)
    setting = VideoLlama(most, 8, 2, 4, 3, 24, 4)
    trace = lvlm.run(random_request(lvlm.config, frames=frames), [setting]).trace
    assert trace.frames == min(frames, most)
    assert trace.llm_vision_tokens == [8] * 4

    def work(queries: int, sources: list[int | None], channels: int) -> int:
        total = 0
        for source in sources:
            total += 12 * queries * 24**2 + 2 * queries**2 * 24
            if source is not None:
                total += 2 * queries * 24**2 + 2 * source * channels * 24 + 2 * queries * source * 24
        return total

    read = min(frames, most)
    each, all_ = work(4, [64, None, 64], 32), work(8, [4 * read] * 2, 24)
    assert trace.adapter_flop == 2 * (read * each + all_ + 8 * 24 * 64)


def test_views_of_tiled_frames_behind_the_last_position_share_it(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    setting = VideoLlama(2, 8, 2, 4, 3, 24, 4)
    trace = lvlm.run(random_request(lvlm.config, frames=2), [setting]).trace
    assert trace.llm_vision_tokens == [8] * 3
    module, x = adapter(device, setting), torch.randn(4, 9, 6, device=device)
    torch.testing.assert_close(module(x), module(x[[0, 3, 2, 1]]))
    assert not torch.allclose(module(x), module(x[[1, 0, 2, 3]]), atol=1e-3)


def test_trained_weights_take_the_place_of_random_ones(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    one, again = (lvlm.run(request, [SMALL]).logits_NC for _ in range(2))
    assert torch.equal(one, again)
    give(lvlm, SMALL, drawn(lambda: VideoQFormer(32, 64, SMALL), seed=5, device=device))
    assert not torch.equal(one, lvlm.run(request, [SMALL]).logits_NC)


@pytest.mark.parametrize("name", ["max_frames", "queries", "layers", "frame_queries", "frame_layers", "width", "heads"])
def test_parameters_outside_their_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        VideoLlama(**{name: 0})
    with pytest.raises(Refusal, match="width must be a multiple of the 5 heads, got 24"):
        VideoLlama(width=24, heads=5)
