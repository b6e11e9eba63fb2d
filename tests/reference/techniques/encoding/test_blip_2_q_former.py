"""BLIP-2's Q-Former."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.techniques.encoding.blip_2_q_former import Blip2QFormer, QueryingAdapter
from lvlm_atlas.reference.techniques.encoding.tome import ToMe

SMALL = Blip2QFormer(queries=8, width=24, heads=4, layers=3)


def adapter(setting: Blip2QFormer, device: str) -> QueryingAdapter:
    """From features of width 6 to tokens of width 10."""
    return drawn(lambda: QueryingAdapter(6, 10, setting), device=device)


def test_the_first_layer_reads_the_image_and_every_second_one_after_it(device: str) -> None:
    layers = adapter(Blip2QFormer(2, 8, 2, 12), device).qformer.layers
    assert [index for index, layer in enumerate(layers) if layer.cross_attention] == [0, 2, 4, 6, 8, 10]


def test_the_norm_follows_the_sum(device: str) -> None:
    module = adapter(SMALL, device)
    seen = []
    module.linear.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    module(torch.randn(2, 9, 6, device=device) * 30)
    torch.testing.assert_close(seen[0], functional.layer_norm(seen[0], (24,)), atol=1e-4, rtol=1e-4)


def test_features_are_normalised_before_they_are_read(device: str) -> None:
    module, x = adapter(SMALL, device), torch.randn(2, 9, 6, device=device)
    torch.testing.assert_close(module(x), module(100 * x + 3), atol=1e-4, rtol=1e-4)


def test_a_frame_is_read_alike_whatever_frames_are_beside_it(device: str) -> None:
    module, x = adapter(SMALL, device), torch.randn(3, 9, 6, device=device)
    torch.testing.assert_close(module(x), torch.cat([module(each[None]) for each in x]))


def test_the_order_of_the_patches_does_not_matter(device: str) -> None:
    module, x = adapter(SMALL, device), torch.randn(2, 9, 6, device=device)
    order = torch.randperm(9, device=device)
    torch.testing.assert_close(module(x), module(x[:, order]))


@pytest.mark.parametrize("setting", [SMALL, Blip2QFormer(5, 32, 2, 4, 1), Blip2QFormer(80, 16, 1, 2, 3)])
def test_the_llm_starts_from_so_many_tokens_a_frame_and_the_work_is_counted(device: str, setting: Blip2QFormer) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [setting]).trace
    assert trace.encoder_tokens == [65] * 4  # it saves nothing in the encoder
    assert trace.llm_vision_tokens == [6 * setting.queries] * 4
    m, w = setting.queries, setting.width
    work = 0
    for layer in range(setting.layers):
        work += 4 * m * w * w + 2 * m * m * w + 8 * m * w * w
        if layer % setting.cross_every == 0:
            work += 2 * m * w * w + 2 * 64 * 32 * w + 2 * m * 64 * w
    assert trace.adapter_flop == 6 * 2 * (work + m * w * 64)


def test_any_number_of_patches_is_read_after_merging_too(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [ToMe(8), SMALL]).trace
    assert trace.llm_vision_tokens == [6 * 8] * 4


def test_trained_weights_take_the_place_of_random_ones(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    one, again = (lvlm.run(request, [SMALL]).logits_NC for _ in range(2))
    assert torch.equal(one, again)
    give(lvlm, SMALL, drawn(lambda: QueryingAdapter(32, 64, SMALL), seed=5, device=device))
    assert not torch.equal(one, lvlm.run(request, [SMALL]).logits_NC)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        *(({name: 0}, f"{name} must be at least 1, got 0") for name in ("queries", "width", "heads", "layers")),
        ({"cross_every": 0}, "cross_every must be at least 1, got 0"),
        ({"width": 25, "heads": 4}, "width must be a multiple of the 4 heads, got 25"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Blip2QFormer(**wrong)


def test_as_many_tokens_as_patches_are_no_grid_of_a_tile(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config, frames=2)
    one, two = (lvlm.run(request, [replace(SMALL, queries=number)]).trace for number in (15, 16))
    assert one.llm_vision_tokens[0] / 15 == two.llm_vision_tokens[0] / 16  # no row is cut off or marked
