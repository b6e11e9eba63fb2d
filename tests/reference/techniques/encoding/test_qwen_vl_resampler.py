"""Qwen-VL's resampler."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.techniques.encoding.qwen_vl_resampler import (
    QwenVlResampler,
    Resampler,
    resized_grid,
    sincos_grid,
)
from lvlm_atlas.reference.techniques.encoding.tome import ToMe

SMALL = QwenVlResampler(queries=9, heads=4)


def resampler(device: str, queries: int = 4, heads: int = 2) -> Resampler:
    """From a width of 6 to one of 8."""
    return drawn(lambda: Resampler(6, 8, queries=queries, heads=heads), device=device)


def test_the_first_half_of_a_place_tells_the_column() -> None:
    table = sincos_grid(3, 8).reshape(3, 3, 8)
    for row in range(3):
        for column in range(3):
            place = [f(x * frequency) for x in (column, row) for f in (math.sin, math.cos) for frequency in (1, 0.01)]
            torch.testing.assert_close(table[row, column], torch.tensor(place))


def test_the_table_of_the_queries_is_resized_to_the_patches() -> None:
    table = sincos_grid(4, 8)
    assert resized_grid(table, 4) is table
    wide = resized_grid(table, 8)
    assert wide.shape == (64, 8)
    assert not torch.allclose(wide, sincos_grid(8, 8), atol=0.5)
    torch.testing.assert_close(wide.reshape(8, 8, 8)[0, 0], wide.reshape(8, 8, 8).transpose(0, 1)[0, 0])
    constant = resized_grid(torch.full((9, 4), 2.5), 5)
    torch.testing.assert_close(constant, torch.full((25, 4), 2.5))


def test_values_have_no_places(device: str) -> None:
    module = resampler(device)
    same = torch.randn(6, device=device).expand(1, 16, 6)  # a picture of one colour: whatever weights, one value
    read = module.out(module.value(module.patch_norm(module.widen(same[0, 0]))))
    expected = (module.out_norm(read) @ module.projection).expand(1, 4, 8)
    torch.testing.assert_close(module(same), expected)


def test_keys_have_places(device: str) -> None:
    module, x = resampler(device), torch.randn(1, 16, 6, device=device)
    assert not torch.allclose(module(x), module(x.flip(1)))
    module.position_MD.zero_()
    torch.testing.assert_close(module(x), module(x.flip(1)))


def test_queries_are_normalised_before_they_get_their_places(device: str) -> None:
    module, x = resampler(device, heads=1), torch.randn(1, 4, 6, device=device)
    patch = functional.layer_norm(module.widen(x), (8,), eps=1e-6)
    query = module.query(functional.layer_norm(module.query_tokens, (8,), eps=1e-6) + sincos_grid(2, 8).to(device))
    weights = (query @ module.key(patch + sincos_grid(2, 8).to(device)).mT / 8**0.5).softmax(-1)
    read = functional.layer_norm(module.out(weights @ module.value(patch)), (8,), eps=1e-6)
    torch.testing.assert_close(module(x), read @ module.projection, atol=1e-5, rtol=1e-5)
    before = module(x)
    module.query_tokens.data.mul_(3)
    torch.testing.assert_close(module(x), before, atol=1e-4, rtol=1e-4)


def test_features_of_the_width_of_the_llm_are_not_projected() -> None:
    assert isinstance(Resampler(8, 8, queries=4, heads=2).widen, torch.nn.Identity)
    widen = Resampler(6, 8, queries=4, heads=2).widen
    assert isinstance(widen, torch.nn.Linear)
    assert widen.bias is None


@pytest.mark.parametrize("queries", [1, 9, 81])
def test_the_llm_starts_from_so_many_tokens_a_frame_and_the_work_is_counted(device: str, queries: int) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [replace(SMALL, queries=queries)]).trace
    assert trace.encoder_tokens == [65] * 4  # it saves nothing in the encoder
    assert trace.llm_vision_tokens == [6 * queries] * 4
    work = 64 * 32 * 64 + 2 * 64 * 64 * 64 + 3 * queries * 64 * 64 + 2 * queries * 64 * 64
    assert trace.adapter_flop == 6 * 2 * work


def test_as_many_tokens_as_patches_are_no_grid_of_a_tile(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config, frames=2)
    one, two = (lvlm.run(request, [replace(SMALL, queries=number)]).trace for number in (9, 16))
    assert one.llm_vision_tokens[0] / 9 == two.llm_vision_tokens[0] / 16  # no row is cut off or marked


def test_what_does_not_fit_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    with pytest.raises(ValueError, match="needs `whole-grid`"):
        lvlm.run(request, [ToMe(8), SMALL])
    with pytest.raises(Refusal, match="heads must divide the width of the LLM, 64, and so must 4, got 3"):
        lvlm.run(request, [replace(SMALL, heads=3)])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"queries": 0}, "queries must be at least 1, got 0"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"queries": 8}, "queries must be a square number, got 8"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        QwenVlResampler(**wrong)
