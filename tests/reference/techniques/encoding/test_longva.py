"""LongVA."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lvlm_atlas.reference.lvlm import LVLM, Refusal, StackError, random_request
from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.techniques.encoding.longva import LongVA, pool_square, tiles_alone
from lvlm_atlas.reference.techniques.encoding.visionzip import VisionZip


def test_a_token_is_the_mean_of_its_square(device: str) -> None:
    token = torch.arange(16.0, device=device).reshape(1, 16, 1)
    assert pool_square(token, 2)[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_square(token, 2, "max")[0, :, 0].tolist() == [5, 7, 13, 15]


@given(st.integers(1, 9), st.integers(2, 5), st.sampled_from(["average", "max"]))
def test_an_odd_grid_loses_its_last_row_and_column(side: int, stride: int, mode: str) -> None:
    stride = min(stride, side)
    token = torch.randn(2, side * side, 3)
    out, across = pool_square(token, stride, mode), side // stride
    assert out.shape == (2, across**2, 3)
    grid = token.reshape(2, side, side, 3)
    for row in range(across):
        for column in range(across):
            square = grid[:, row * stride :, column * stride :][:, :stride, :stride].flatten(1, 2)
            wanted = square.mean(1) if mode == "average" else square.amax(1)
            assert torch.allclose(out[:, row * across + column], wanted, atol=1e-6)


def test_pooling_follows_the_projector(device: str) -> None:
    """The projector is not linear, so that pooled patches projected are other tokens."""
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config, frames=2), [LongVA()])
    hidden = torch.randn(2, 64, 32, device=device)
    adapter = lvlm.dialect.adapter
    out = run.acts.owner("adapter").adapt(Adapter(hidden, None, adapter))  # type: ignore[arg-type]
    assert torch.allclose(out, pool_square(adapter(hidden), 2))
    assert not torch.allclose(out, adapter(pool_square(hidden, 2)), atol=1e-3)


def test_the_view_of_the_whole_is_dropped(device: str) -> None:
    token = torch.arange(7.0, device=device)[:, None, None]
    assert tiles_alone(token, (3, 4)).flatten().tolist() == [1, 2, 4, 5, 6]


def test_tiles_stand_one_after_the_other_and_no_row_ends(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config, frames=2)
    run = lvlm.begin(request, [LongVA()])
    (clip,) = lvlm.dialect.split(request)
    views = [tiling.views for tiling in clip.tilings]
    patches = lvlm.dialect.patches(clip.frames_F3HW.to(device), run.trace, lambda _layer, _layers, patches: patches)
    tokens = pool_square(lvlm.dialect.adapter(lvlm.dialect.features(patches)), 2)  # 2 × 2 of 4 × 4
    expected = torch.cat([tokens[1 : views[0]].flatten(0, 1), tokens[views[0] + 1 :].flatten(0, 1)])
    inputs = lvlm.prepare(run)
    assert run.trace.vision_tokens == 4 * (sum(views) - 2)
    assert torch.allclose(inputs.hidden_BND[inputs.vision_BN], expected, atol=1e-6)


def test_an_image_that_is_one_tile_looks_like_a_frame(device: str) -> None:
    """What makes a video from images: a tile and a frame of the same pixels give the same tokens."""
    whole, tiled = LVLM.random("tiny", device=device), torch.randn(3, 16, 5, device=device)
    as_tiles, as_frames = tiles_alone(pool_square(tiled, 2), (3,)), pool_square(tiled[1:], 2)
    assert torch.equal(as_tiles, as_frames)
    trace = whole.run(random_request(whole.config, frames=1), [LongVA()]).trace
    assert trace.llm_vision_tokens == [16] * 4


@pytest.mark.parametrize(("stride", "left"), [(2, 16), (3, 4), (8, 1)])
def test_each_frame_costs_a_square_of_tokens(device: str, stride: int, left: int) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, frames=6), [LongVA(stride)]).trace
    assert trace.encoder_tokens == [65] * 4
    assert trace.llm_vision_tokens == [6 * left] * 4
    assert trace.adapter_flop == 2 * 6 * 64 * (32 * 64 + 64 * 64)  # the whole projector ran


def test_what_is_no_whole_square_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    with pytest.raises(Refusal, match="stride must be at most 8, the patches along a side, got 9"):
        lvlm.run(request, [LongVA(9)])
    with pytest.raises(StackError, match="needs `whole-grid`, which nobody finds behind VisionZip"):
        lvlm.run(request, [VisionZip(54, 10), LongVA()])


def test_the_model_keeps_its_projector(device: str) -> None:
    lvlm = LVLM.random(device=device)
    before = [weight.clone() for weight in lvlm.dialect.adapter.parameters()]
    lvlm.run(random_request(lvlm.config), [LongVA()])
    assert isinstance(lvlm.dialect.adapter, nn.Module)
    assert all(map(torch.equal, before, lvlm.dialect.adapter.parameters()))


@pytest.mark.parametrize(("wrong", "said"), [({"stride": 1}, "at least 2, got 1"), ({"mode": "sum"}, "average or max")])
def test_parameters_outside_their_range_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LongVA(**wrong)  # type: ignore[arg-type]
