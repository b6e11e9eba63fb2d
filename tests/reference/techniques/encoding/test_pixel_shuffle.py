"""Pixel shuffle."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.modules.kept import give
from lvlm_atlas.reference.techniques.encoding.pixel_shuffle import PixelShuffle, ShuffleProjector, space_to_depth
from lvlm_atlas.reference.techniques.encoding.visionzip import VisionZip


def test_a_token_holds_its_square_row_by_row_and_each_patch_whole(device: str) -> None:
    grid = torch.arange(16, device=device).reshape(1, 4, 4, 1) * 10 + torch.arange(2, device=device)
    out = space_to_depth(grid, 2)
    assert out.shape == (1, 2, 2, 8)
    assert out[0, 0, 0].tolist() == [0, 1, 10, 11, 40, 41, 50, 51]
    assert out[0, 0, 1].tolist() == [20, 21, 30, 31, 60, 61, 70, 71]
    assert out[0, 1, 0].tolist() == [80, 81, 90, 91, 120, 121, 130, 131]
    unshuffled = functional.pixel_unshuffle(grid.permute(0, 3, 1, 2).float(), 2).permute(0, 2, 3, 1)
    assert not torch.equal(out.float(), unshuffled)


def test_the_first_version_leaves_rows_and_columns_exchanged(device: str) -> None:
    grid = torch.randn(2, 4, 6, 3, device=device)
    one, two = space_to_depth(grid, 2, "v1"), space_to_depth(grid, 2, "v2")
    assert one.shape == (2, 3, 2, 12)
    assert torch.equal(one.transpose(1, 2), two)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_nothing_is_lost_before_the_projection(factor: int, rows: int, columns: int, width: int) -> None:
    grid = torch.randn(2, factor * rows, factor * columns, width)
    out = space_to_depth(grid, factor)
    assert out.shape == (2, rows, columns, factor**2 * width)
    for row in range(rows):
        for column in range(columns):
            square = grid[:, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            assert torch.equal(out[:, row, column], square.flatten(1))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_llm_starts_from_one_token_a_square(device: str, factor: int) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [PixelShuffle(factor)]).trace
    assert trace.encoder_tokens == [65] * 4  # it saves nothing in the encoder
    assert trace.llm_vision_tokens == [6 * 64 // factor**2] * 4
    tokens, width = 6 * 64 // factor**2, 32 * factor**2
    assert trace.adapter_flop == 2 * tokens * (width * 64 + 64 * 64)


def test_a_change_of_one_patch_reaches_the_token_of_its_square_alone(device: str) -> None:
    projector = ShuffleProjector(4, 8, factor=2).to(device).eval()
    grid = torch.randn(1, 4, 4, 4, device=device)
    changed = grid.clone()
    changed[0, 3, 1] += 1
    one, other = (projector(space_to_depth(each, 2).flatten(1, 2)) for each in (grid, changed))
    assert (one != other).any(-1).tolist() == [[False, False, True, False]]


def test_both_versions_share_the_weights_of_a_model_and_trained_ones_take_their_place(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    one, again = (lvlm.run(request, [PixelShuffle()]).logits_NC for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, lvlm.run(request, [PixelShuffle(version="v1")]).logits_NC)
    give(lvlm, (PixelShuffle, 2), ShuffleProjector(32, 64, factor=2).to(device))
    assert not torch.equal(one, lvlm.run(request, [PixelShuffle()]).logits_NC)


def test_what_is_no_whole_square_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    with pytest.raises(Refusal, match="factor must divide 8, the patches along a side, got 3"):
        lvlm.run(request, [PixelShuffle(3)])
    with pytest.raises(Refusal, match="needs `whole-grid`, which nobody finds behind VisionZip"):
        lvlm.run(request, [VisionZip(54, 10), PixelShuffle()])


@pytest.mark.parametrize(("wrong", "said"), [({"factor": 0}, "at least 1, got 0"), ({"version": "v3"}, "v1 or v2")])
def test_parameters_outside_their_range_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PixelShuffle(**wrong)  # type: ignore[arg-type]
