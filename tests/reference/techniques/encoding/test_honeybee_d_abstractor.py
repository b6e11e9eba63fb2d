"""Honeybee's D-Abstractor."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.techniques.encoding.honeybee_d_abstractor import (
    DAbstractor,
    Deformable,
    DeformableLayer,
    HoneybeeDAbstractor,
    even_points,
    sample,
)
from lvlm_atlas.reference.techniques.encoding.visionzip import VisionZip

SMALL = HoneybeeDAbstractor(queries=9, layers=2, width=8, heads=2, points=3, inner=12)


def bilinear(grid_dss: Tensor, column: float, row: float) -> Tensor:
    """The grid between its cells, whose centres lie at halves; by hand, 0 outside."""
    side, out = grid_dss.shape[1], torch.zeros(len(grid_dss))
    x, y = column * side - 0.5, row * side - 0.5
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < side and 0 <= j < side:
                out += grid_dss[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return out


def test_points_lie_evenly_column_first() -> None:
    assert even_points(2, 4).tolist() == [[0.125, 0.125], [0.875, 0.125], [0.125, 0.875], [0.875, 0.875]]
    assert even_points(1, 4).tolist() == [[0.125, 0.125]]
    torch.testing.assert_close(even_points(3, 3)[4], torch.tensor([0.5, 0.5]))


def test_a_point_on_a_cell_reads_that_cell(device: str) -> None:
    grid = torch.randn(2, 3, 5, 4, 4, device=device)
    points = even_points(4, 4).to(device).expand(2, 3, -1, -1)[:, :, :, None]
    read = sample(grid, points, torch.ones(2, 3, 16, 1, device=device))
    torch.testing.assert_close(read, grid.flatten(3).mT)


def test_values_are_sampled_between_cells_and_summed_by_weight() -> None:
    grid, points = torch.randn(1, 1, 3, 5, 5), torch.rand(1, 1, 6, 2, 2) * 1.4 - 0.2
    weights = torch.rand(1, 1, 6, 2)
    read = sample(grid, points, weights)
    for query in range(6):
        by_hand = sum(weights[0, 0, query, p] * bilinear(grid[0, 0], *points[0, 0, query, p].tolist()) for p in (0, 1))
        torch.testing.assert_close(read[0, 0, query], by_hand, atol=1e-5, rtol=1e-4)


def test_nothing_is_read_outside_the_image() -> None:
    grid = torch.ones(1, 1, 1, 4, 4)
    points = torch.tensor([[0.5, 0.5], [2.0, 0.5], [0.5, -1.0], [0.0, 0.5]]).reshape(1, 1, 4, 1, 2)
    assert sample(grid, points, torch.ones(1, 1, 4, 1)).flatten().tolist() == [1, 0, 0, 0.5]


def test_offsets_count_cells(device: str) -> None:
    module = drawn(lambda: Deformable(4, 1, 1), device=device)
    module.offsets.weight.data.zero_()
    module.offsets.bias.data.copy_(torch.tensor([2.0, 1.0]))  # two columns to the right, one row down
    patch = torch.randn(1, 16, 4, device=device)
    read = module(torch.randn(1, 1, 4, device=device), patch, torch.tensor([[0.125, 0.125]], device=device))
    torch.testing.assert_close(read[0, 0], module.out(module.value(patch[0, 1 * 4 + 2])))


def test_weights_are_shared_out_among_the_points_of_a_head(device: str) -> None:
    module = drawn(lambda: Deformable(6, 3, 4), device=device)
    grey = torch.randn(6, device=device).expand(2, 25, 6)
    module.offsets.weight.data.zero_()
    read = module(torch.randn(2, 4, 6, device=device), grey, even_points(2, 5).to(device))
    torch.testing.assert_close(read, module.out(module.value(grey[:, :4])))


def test_pooled_means_are_added_where_queries_ask_alone(device: str) -> None:
    layer = drawn(lambda: DeformableLayer(4, 1, 1, 6), device=device)
    x, place, patch = (torch.randn(1, n, 4, device=device) for n in (4, 4, 9))
    points = even_points(2, 3).to(device)
    weights = (layer.query(x + place) @ layer.key(x + place).mT / 2).softmax(-1)
    one = functional.layer_norm(x + layer.out(weights @ layer.value(x)), (4,))
    two = functional.layer_norm(one + layer.deformable(one + place, patch, points), (4,))
    three = functional.layer_norm(two + layer.linear_2(layer.linear_1(two).relu()), (4,))
    torch.testing.assert_close(layer(x, place, patch, points), three, atol=1e-5, rtol=1e-4)


def test_queries_ask_with_the_mean_of_the_patches_around(device: str) -> None:
    module = drawn(lambda: DAbstractor(16, 5, 8, replace(SMALL, queries=4, layers=1)), device=device)
    seen: list[Tensor] = []
    module.layers[0].register_forward_pre_hook(lambda _, given: seen.extend(given))
    grid = torch.randn(2, 4, 4, 5, device=device)
    module(grid.flatten(1, 2))
    wide = (module.widen(grid.flatten(1, 2)) + module.position_embed).unflatten(1, (4, 4))
    torch.testing.assert_close(seen[1][:, 1], wide[:, :2, 2:].mean((1, 2)))
    torch.testing.assert_close(seen[0][1], module.target_tokens)


def test_what_has_the_right_width_is_not_projected(device: str) -> None:
    module = drawn(lambda: DAbstractor(4, 8, 8, SMALL), device=device)
    assert isinstance(module.widen, torch.nn.Identity)
    assert isinstance(module.narrow, torch.nn.Identity)
    assert module(torch.randn(2, 4, 8, device=device)).shape == (2, 9, 8)


@pytest.mark.parametrize(
    "setting", [SMALL, HoneybeeDAbstractor(16, 1, 32, 4, 2, 8), HoneybeeDAbstractor(1, 1, 64, 1, 1, 5)]
)
def test_the_llm_starts_from_so_many_tokens_a_frame_and_the_work_is_counted(
    device: str, setting: HoneybeeDAbstractor
) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [setting]).trace
    assert trace.encoder_tokens == [65] * 4  # it saves nothing in the encoder
    assert trace.llm_vision_tokens == [6 * setting.queries] * 4
    m, w, asked = setting.queries, setting.width, setting.heads * setting.points
    layer = 4 * m * w * w + 2 * m * m * w + 64 * w * w + 3 * m * w * asked + m * w * w + 2 * m * w * setting.inner
    work = setting.layers * layer + (w != 32) * 64 * 32 * w + (w != 64) * m * w * 64
    assert trace.adapter_flop == 6 * 2 * work


def test_it_is_computed_in_single_precision(device: str) -> None:
    lvlm = LVLM.random(device=device, dtype=torch.bfloat16)
    seen: list[torch.dtype] = []
    acting = SMALL.begin(lvlm.begin(random_request(lvlm.config), [SMALL]))
    adapt = acting.adapt

    class At:
        hidden_FND = torch.randn(1, 64, 32, device=device, dtype=torch.bfloat16)

    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, out: seen.append(out.dtype) if isinstance(module, DAbstractor) else None
    )
    try:
        assert adapt(At()).dtype == torch.bfloat16
    finally:
        hook.remove()
    assert seen == [torch.float32]


def test_what_is_no_whole_square_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(ValueError, match="needs `whole-grid`"):
        lvlm.run(random_request(lvlm.config), [VisionZip(54, 10), SMALL])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        *(({name: 0}, f"{name} must be at least 1, got 0") for name in ("queries", "layers", "width", "heads")),
        *(({name: 0}, f"{name} must be at least 1, got 0") for name in ("points", "inner")),
        ({"queries": 8}, "queries must be a square number, got 8"),
        ({"width": 9, "heads": 2}, "width must be a multiple of the 2 heads, got 9"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HoneybeeDAbstractor(**wrong)
