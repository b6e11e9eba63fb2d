"""NVILA's compression."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.techniques.encoding.nvila import Nvila, NvilaProjector, averaged, folded


def test_zeros_fill_the_last_row_and_column(device: str) -> None:
    grid = torch.arange(1, 17, device=device).reshape(1, 4, 4, 1)
    out = folded(grid, 3)
    assert out.shape == (1, 2, 2, 9)
    assert out[0, 0, 0].tolist() == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert out[0, 0, 1].tolist() == [4, 0, 0, 8, 0, 0, 12, 0, 0]
    assert out[0, 1, 1].tolist() == [16] + [0] * 8


@given(st.integers(2, 3), st.integers(1, 7), st.integers(1, 7))
def test_every_patch_is_in_one_token_once(factor: int, rows: int, columns: int) -> None:
    grid = torch.arange(1, rows * columns + 1).reshape(1, rows, columns, 1)
    out = folded(grid, factor)
    assert out.shape[1:3] == (-(-rows // factor), -(-columns // factor))
    assert out[out > 0].sort().values.tolist() == grid.flatten().tolist()


def test_neighbours_in_time_are_averaged() -> None:
    tokens = torch.tensor([0.0, 2.0, 10.0, 20.0]).reshape(4, 1, 1)
    assert averaged(tokens, 2).flatten().tolist() == [1, 15]
    assert averaged(tokens, 4).flatten().tolist() == [8]


def test_frames_are_averaged_behind_the_adapter(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=6)
    hidden = torch.randn(6, 64, lvlm.config.vision.hidden_size, device=device)

    def adapted(setting: Nvila) -> torch.Tensor:
        acting = lvlm.begin(request, [setting]).acts.owner("adapter")
        out = acting.adapt(Adapter(hidden, patches=None, adapter=None))
        assert isinstance(out, torch.Tensor)
        return out

    with torch.inference_mode():
        each, pooled = adapted(Nvila(3)), adapted(Nvila(3, temporal_pool=3))
    assert pooled.shape == (2, 9, lvlm.config.text.hidden_size)
    torch.testing.assert_close(pooled, torch.stack([each[:3].mean(0), each[3:].mean(0)]))


@pytest.mark.parametrize(("factor", "linear"), [(2, [(16, 8), (8, 8)]), (3, [(36, 12), (12, 8), (8, 8)])])
def test_squares_of_three_take_one_step_more(factor: int, linear: list[tuple[int, int]]) -> None:
    projector = drawn(lambda: NvilaProjector(4, 8, factor))
    widths = [(each.in_features, each.out_features) for each in projector if isinstance(each, torch.nn.Linear)]
    assert widths == linear
    assert projector(torch.randn(2, 5, 4 * factor**2)).shape == (2, 5, 8)


def test_what_cannot_be_averaged_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(Refusal, match="temporal_pool 4 averages frames of a video, and it does not divide 6 frames"):
        lvlm.run(random_request(lvlm.config, frames=6), Nvila(temporal_pool=4))


@pytest.mark.parametrize(("wrong", "said"), [({"factor": 4}, "2 or 3, got 4"), ({"temporal_pool": 0}, "at least 1")])
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Nvila(**wrong)
