"""Pooling of vision tokens."""

import math

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import VisionTokens, blocks_of
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.techniques.encoding.pooling import Mode, Pooler, Pooling, pool, pooled_side

GRID = torch.arange(16.0).reshape(1, 1, 4, 4)


def squares(grid_RC: Tensor, stride: int, mode: str, ceil: bool) -> list[list[float]]:
    """Pooling of one channel, square by square."""
    rows, columns = (math.ceil(side / stride) if ceil else side // stride for side in grid_RC.shape)
    fold = Tensor.mean if mode == "average" else Tensor.max
    return [
        [
            float(fold(grid_RC[stride * row : stride * (row + 1), stride * column : stride * (column + 1)]))
            for column in range(columns)
        ]
        for row in range(rows)
    ]


def pooled(setting: Pooling, token_TND: Tensor) -> VisionTokens:
    """The tokens of frames, pooled."""
    return Pooler(setting, active=True).adapter_output(AdapterOutput(VisionTokens(blocks_of(token_TND))))


def test_squares_by_hand(device: str) -> None:
    grid = GRID.to(device)
    assert pool(grid, 2, "average")[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert pool(grid, 2, "max")[0, 0].tolist() == [[5, 7], [13, 15]]
    assert pool(grid, 2, "bilinear")[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]  # the middle of each square


def test_bilinear_is_no_average_where_squares_are_larger_than_two(device: str) -> None:
    grid = torch.zeros(1, 1, 4, 4, device=device)
    grid[0, 0, 0, 0] = 16.0
    assert pool(grid, 4, "average").item() == 1.0
    assert pool(grid, 4, "bilinear").item() == 0.0  # between the four in the middle


def test_an_odd_side_is_spread_evenly_by_bilinear_interpolation(device: str) -> None:
    grid = torch.arange(3.0, device=device).expand(1, 1, 3, 3)
    # Two tokens over three: at 0.25 and 1.75, the middles of halves of length 1.5.
    torch.testing.assert_close(pool(grid, 2)[0, 0, 0].cpu(), torch.tensor([0.25, 1.75]))
    # 27 × 27 of SigLIP becomes 14 × 14 = 196 tokens by bilinear, 13 × 13 = 169 by squares.
    assert pooled_side(27, 2, ceil_mode=True) ** 2 == 196
    assert pooled_side(27, 2, ceil_mode=False) ** 2 == 169


@pytest.mark.parametrize("mode", ["average", "max"])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("side", "stride"), [(4, 2), (5, 2), (7, 3), (3, 3), (6, 4), (2, 3), (1, 1)])
def test_squares_equal_those_taken_one_by_one(device: str, mode: Mode, ceil: bool, side: int, stride: int) -> None:
    grid = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(side)).to(device)
    want = squares(grid[0, 0], stride, mode, ceil)
    if want:
        got = pool(grid, stride, mode, ceil_mode=ceil)[0, 0].cpu()
        torch.testing.assert_close(got, torch.tensor(want))


def test_what_the_edge_cuts_off_is_the_mean_of_what_is_there(device: str) -> None:
    grid = torch.ones(1, 1, 3, 3, device=device)
    assert pool(grid, 2, "average", ceil_mode=True)[0, 0].tolist() == [[1, 1], [1, 1]]  # not 1/2 or 1/4 at the edge


def test_each_frame_and_channel_is_pooled_apart_and_rows_stay_rows(device: str) -> None:
    token_TND = torch.randn(3, 16, 5, device=device)
    left = pooled(Pooling(2, "average", ceil_mode=False), token_TND)
    assert left.grid == (2, 2)
    for frame, block in enumerate(left.blocks):
        grid_RCD = token_TND[frame].reshape(4, 4, 5)
        want = [grid_RCD[row : row + 2, column : column + 2].mean((0, 1)) for row in (0, 2) for column in (0, 2)]
        torch.testing.assert_close(block.token_ND, torch.stack(want))
        assert block.place_N2 is not None
        assert block.place_N2.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_constant_frames_stay_what_they_are(device: str) -> None:
    token_TND = torch.tensor([1.0, -2.0], device=device)[:, None, None].expand(2, 25, 3)
    for mode in ("average", "max", "bilinear"):
        for ceil in (False, True):
            left = pooled(Pooling(2, mode, ceil_mode=ceil), token_TND)  # type: ignore[arg-type]
            for frame, value in enumerate((1.0, -2.0)):
                torch.testing.assert_close(
                    left.blocks[frame].token_ND, torch.full_like(left.blocks[frame].token_ND, value)
                )


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        (Pooling(2), 16),
        (Pooling(3), 9),
        (Pooling(3, "average", ceil_mode=False), 4),
        (Pooling(9), 1),
        (Pooling(1), 64),
    ],
)
def test_the_llm_reads_the_pooled_tokens(device: str, setting: Pooling, kept: int) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=3, max_new_tokens=2)
    assert lvlm.run(request, [setting]).trace.llm_vision_tokens[0] == 3 * kept


def test_a_stride_of_one_changes_nothing(device: str) -> None:
    for preset in ("tiny", "tiny-tiles"):
        lvlm = LVLM.random(preset, device=device)
        request = random_request(lvlm.config, frames=2, max_new_tokens=2)
        assert torch.equal(lvlm.run(request).logits_NC, lvlm.run(request, [Pooling(1)]).logits_NC)


def test_what_is_no_square_is_refused(device: str) -> None:
    with pytest.raises(Refusal, match="a square of tokens, but a frame has 15"):
        pooled(Pooling(2), torch.randn(2, 15, 4, device=device))
    token_TND = torch.randn(2, 4, 4, device=device)
    with pytest.raises(Refusal, match="stride must be at most 2"):
        pooled(Pooling(3, "max", ceil_mode=False), token_TND)
    assert pooled(Pooling(3, "max"), token_TND).lengths == (1, 1)


def test_tiled_images_are_left_alone(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=2)
    assert torch.equal(lvlm.run(request).logits_NC, lvlm.run(request, [Pooling(2)]).logits_NC)


def test_positions_of_several_axes_are_refused(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    with pytest.raises(Refusal, match="one-position-axis"):
        lvlm.run(random_request(lvlm.config, frames=2), [Pooling(2)])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"stride": 0}, "stride must be at least 1, got 0"), ({"mode": "sum"}, "mode must be average, max or bilinear")],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Pooling(**wrong)  # type: ignore[arg-type]
