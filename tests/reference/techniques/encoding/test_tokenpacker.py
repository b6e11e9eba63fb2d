"""TokenPacker."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.techniques.encoding.tokenpacker import PointToRegion, TokenPacker, coarse_grid, squares_of
from lvlm_atlas.reference.techniques.encoding.tome import ToMe

SMALL = TokenPacker(scale_factor=2, layers=(1, 2), width=24, heads=2)


def packer(device: str, *, factor: int = 2, heads: int = 2) -> PointToRegion:
    """From a width of 3 to one of 10, the features of two layers."""
    setting = TokenPacker(scale_factor=factor, layers=(1, 2), width=8, heads=heads)
    return drawn(lambda: PointToRegion(3, 10, setting), device=device)


def features(device: str, side: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(2, side**2, 3, device=device), torch.randn(2, side**2, 6, device=device)


def test_squares_and_what_is_in_them_stand_row_by_row() -> None:
    squares = squares_of(torch.arange(16.0).reshape(1, 16, 1), 2)
    assert squares[0, :, :, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_a_coarse_point_is_bilinear_between_cells() -> None:
    grid = torch.randn(1, 36, 2)
    halves = coarse_grid(grid, 2).reshape(3, 3, 2)
    thirds = coarse_grid(grid, 3).reshape(2, 2, 2)
    cells = grid.reshape(6, 6, 2)
    torch.testing.assert_close(halves[1, 2], cells[2:4, 4:6].mean((0, 1)))  # between four centres
    torch.testing.assert_close(thirds[1, 0], cells[4, 1])  # on a centre: nothing is averaged
    assert torch.equal(coarse_grid(grid, 1), grid)


def test_a_token_is_attention_of_its_point_to_its_square(device: str) -> None:
    module, (patch, fine) = packer(device, heads=1), features(device)
    key = module.key(functional.layer_norm(module.fine_key(fine), (8,), eps=1e-6)).unflatten(1, (4, 4))
    value = module.value(functional.layer_norm(module.fine_value(fine), (8,), eps=1e-6)).unflatten(1, (4, 4))
    query = module.query(functional.layer_norm(module.coarse(coarse_grid(patch, 2)), (8,), eps=1e-6))
    out = module(patch, fine)
    for token, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        keys, values = (each[1, row : row + 2, column : column + 2].flatten(0, 1) for each in (key, value))
        read = (query[1, token] @ keys.T / 8**0.5).softmax(-1) @ values
        torch.testing.assert_close(out[1, token], module.readout(module.out(read)), atol=1e-5, rtol=1e-4)


def test_nothing_of_the_point_is_left_but_what_it_reads(device: str) -> None:
    module, (patch, fine) = packer(device), features(device)
    same = fine[:, :1].expand(-1, 16, -1)  # all that can be read is alike
    torch.testing.assert_close(module(patch, same), module(3 * patch.flip(1), same))
    single, (patch, fine) = packer(device, factor=1), features(device)
    torch.testing.assert_close(single(patch, fine), single(-patch, fine))  # one key a query


def test_fine_features_reach_the_token_of_their_square_alone(device: str) -> None:
    module, (patch, fine) = packer(device), features(device)
    changed = fine.clone()
    changed[0, 2 * 4 + 1] += 1  # row 2, column 1
    differs = (module(patch, fine) != module(patch, changed)).any(-1)
    assert differs.tolist() == [[False, False, True, False], [False] * 4]


def test_queries_are_resized_before_they_are_projected(device: str) -> None:
    module, (patch, fine) = packer(device), features(device)
    seen: list[Tensor] = []
    module.coarse.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    module(patch, fine)
    torch.testing.assert_close(seen[0], coarse_grid(patch, 2))
    assert module.coarse.bias is None


def test_features_are_those_behind_so_many_layers(device: str) -> None:
    lvlm = LVLM.random(device=device)  # of whose four layers three run
    request = random_request(lvlm.config, frames=2)
    setting = TokenPacker(2, (0, 1, 3), 8, 1)
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(PointToRegion):
        def forward(self, patch_FNC: Tensor, fine_FNE: Tensor) -> Tensor:
            seen.append((patch_FNC, fine_FNE))
            return super().forward(patch_FNC, fine_FNE)

    give(lvlm, setting, drawn(lambda: Spy(32, 64, setting), device=device))
    model = lvlm.dialect.vision_tower.vision_model
    behind = [model.pre_layrnorm(model.embeddings(request.frames_F3HW.to(device)))]
    for layer in model.encoder.layers[:3]:
        x = behind[-1]
        heads = [f(layer.layer_norm1(x)).unflatten(-1, (4, 8)).transpose(1, 2) for f in projections(layer)]
        x = x + layer.self_attn.out_proj(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        behind.append(x + layer.mlp(layer.layer_norm2(x)))
    lvlm.run(request, [setting])
    ((patch, fine),) = seen
    torch.testing.assert_close(patch, behind[3][:, 1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fine, torch.cat([behind[i][:, 1:] for i in (0, 1, 3)], -1), atol=1e-4, rtol=1e-4)


def projections(layer: torch.nn.Module) -> list[torch.nn.Module]:
    attention = layer.self_attn
    return [attention.q_proj, attention.k_proj, attention.v_proj]


@pytest.mark.parametrize("setting", [SMALL, TokenPacker(1, (0, 3), 16, 4), TokenPacker(4, (2,), 8, 8)])
def test_the_llm_starts_from_one_token_a_square_and_the_work_is_counted(device: str, setting: TokenPacker) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [setting]).trace
    m, w = 64 // setting.scale_factor**2, setting.width
    assert trace.encoder_tokens == [65] * 4  # it saves nothing in the encoder
    assert trace.llm_vision_tokens == [6 * m] * 4
    mixed = 2 * 64 * (len(setting.layers) * 32 * w + w * w)
    attention = 2 * m * w * w + 2 * 64 * w * w + 2 * 64 * w
    assert trace.adapter_flop == 6 * 2 * (m * 32 * w + mixed + attention + m * (w * 64 + 64 * 64))


def test_what_does_not_fit_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    with pytest.raises(Refusal, match="scale_factor must divide 8, the patches along a side, got 3"):
        lvlm.run(request, [replace(SMALL, scale_factor=3)])
    with pytest.raises(Refusal, match=r"the encoder runs 3 layers, so layers must end there, got \[12, 16, 22, 23\]"):
        lvlm.run(request, [TokenPacker()])
    with pytest.raises(ValueError, match="needs `whole-grid`"):
        lvlm.run(request, [ToMe(8), SMALL])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        *(({name: 0}, f"{name} must be at least 1, got 0") for name in ("scale_factor", "width", "heads")),
        ({"layers": ()}, r"layers must rise from 0 or more, got \[\]"),
        ({"layers": (2, 2)}, r"layers must rise from 0 or more, got \[2, 2\]"),
        ({"layers": (-1, 2)}, r"layers must rise from 0 or more, got \[-1, 2\]"),
        ({"width": 9, "heads": 2}, "width must be a multiple of the 2 heads, got 9"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TokenPacker(**wrong)  # type: ignore[arg-type]
