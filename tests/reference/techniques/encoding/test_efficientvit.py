"""EfficientViT."""

import pytest
import torch
from tests.trained import trained
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.ops.flops import count_flop
from lvlm_atlas.reference.techniques.encoding.efficientvit import (
    Bottleneck,
    EfficientViT,
    EfficientViTNet,
    MultiScaleAttention,
    Residual,
    linear_attention,
)


def heads(places: int, width: int, device: str) -> torch.Tensor:
    """Queries, keys and values (3, 2, 3, d, N)."""
    return torch.randn(3, 2, 3, width, places, device=device)


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A sum for each query and key of each head."""
    out = torch.zeros_like(value)
    for frame in range(query.shape[0]):
        for head in range(query.shape[1]):
            q, k, v = query[frame, head].relu(), key[frame, head].relu(), value[frame, head]
            for place in range(q.shape[1]):
                weight = torch.stack([k[:, other] @ q[:, place] for other in range(k.shape[1])])
                out[frame, head, :, place] = (v * weight).sum(1) / (weight.sum() + 1e-15)
    return out


@pytest.mark.parametrize("places", [1, 2, 4, 5, 9])
def test_both_orders_of_the_sums_are_softmax_free_attention(places: int, device: str) -> None:
    """At a width of 4 the first three sizes take the one order, the last two the other."""
    query, key, value = heads(places, 4, device)
    torch.testing.assert_close(linear_attention(query, key, value), by_hand(query, key, value), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("places", "flop"), [(3, 2 * 2 * 3 * 3 * 4), (4, 2 * 2 * 4 * 4 * 4), (5, 2 * 2 * 5 * 5 * 4)])
def test_work_is_that_of_the_cheaper_order(places: int, flop: int, device: str) -> None:
    # N² d twice up to d = 4 places; then (d + 1) d N twice, which at 5 places is as much.
    query, key, value = heads(places, 4, device)[:, :1, :1]
    assert count_flop(lambda: linear_attention(query, key, value))[1] == flop
    query, key, value = heads(40, 4, device)[:, :1, :1]
    assert count_flop(lambda: linear_attention(query, key, value))[1] == 2 * 2 * 5 * 4 * 40


def test_values_keep_their_signs(device: str) -> None:
    query, key, _ = heads(6, 4, device).abs()
    value = -torch.ones_like(query)
    torch.testing.assert_close(linear_attention(query, key, value), value)


@pytest.mark.parametrize("places", [3, 9])
def test_a_query_that_meets_no_key_gives_zero(places: int, device: str) -> None:
    query, key, value = heads(places, 4, device)
    query[0, 0, :, 1] = -1
    key[1, 2] = -key[1, 2].abs()
    out = linear_attention(query, key, value)
    assert out.isfinite().all()
    assert not out[0, 0, :, 1].any()
    assert not out[1, 2].any()
    assert out[0, 1].any()


def test_scale_of_queries_and_keys_cancels(device: str) -> None:
    query, key, value = heads(7, 4, device)
    torch.testing.assert_close(linear_attention(3 * query, key / 2, value), linear_attention(query, key, value))


def test_sums_are_kept_in_full_precision(device: str) -> None:
    query, key, value = (torch.full((1, 1, 2, 400), 30.0, dtype=torch.float16, device=device) for _ in range(3))
    out = linear_attention(query, key, value)  # 400 · 30 · 30 is over 65504, the most that half precision holds
    torch.testing.assert_close(out, torch.full_like(out, 30.0))


def test_order_of_the_places_does_not_matter_without_aggregation(device: str) -> None:
    query, key, value = heads(9, 4, device)
    order = torch.randperm(9, device=device)
    out = linear_attention(query, key, value)
    torch.testing.assert_close(linear_attention(*(each[..., order] for each in (query, key, value))), out[..., order])


def test_channels_of_a_head_lie_together(device: str) -> None:
    """Head 1 of two alone has values: its query, key and value are the second half of the channels, in this order."""
    module = trained(lambda: MultiScaleAttention(4, 2, 3), device)
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, device=device)
    both = torch.cat([module.qkv(x), module.mix(module.nearby(module.qkv(x)))], 1).flatten(2)
    outs = []
    for start in (0, 6, 12, 18):
        query, key, value = (both[:, None, start + 2 * i : start + 2 * i + 2] for i in range(3))
        outs.append(by_hand(query, key, value)[:, 0])
    expected = module.norm(module.proj(torch.cat(outs, 1).reshape(1, 8, 3, 3)))
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


def test_aggregation_keeps_queries_keys_and_values_of_each_head_apart(device: str) -> None:
    module = trained(lambda: MultiScaleAttention(4, 2, 5), device)
    assert module.nearby.weight.shape == (12, 1, 5, 5)
    assert module.mix.weight.shape == (12, 2, 1, 1)
    x = torch.randn(1, 12, 6, 6, dtype=torch.float64, device=device)
    changed = x.clone()
    changed[:, 3] += 1  # of the key of the first head
    moved = (module.mix(module.nearby(x)) != module.mix(module.nearby(changed))).flatten(2).any(-1)[0]
    assert moved.nonzero().flatten().tolist() == [2, 3]


def test_norms_between_convolutions_give_way_to_biases_where_blocks_attend(device: str) -> None:
    many, few = (trained(lambda f=few: Bottleneck(2, 4, 2, few_norms=f), device) for few in (False, True))
    assert [conv.bias is None for conv in (many.conv1, many.conv2, many.conv3)] == [True, True, True]
    assert [conv.bias is None for conv in (few.conv1, few.conv2, few.conv3)] == [False, False, True]
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, device=device)
    inside = functional.hardswish(few.conv2(functional.hardswish(few.conv1(x))))
    torch.testing.assert_close(few(x), few.norm3(few.conv3(inside)))
    assert few(x).shape == (1, 4, 3, 3)


def test_the_published_networks_have_their_numbers_of_weights() -> None:
    """Those of the authors' backbones B0 to B3."""
    shapes = {
        682_608: (8, (1, 2, 2, 2, 2), 16), 4_643_936: (16, (1, 2, 3, 3, 4), 16),
        14_977_008: (24, (1, 3, 4, 4, 6), 32), 38_997_440: (32, (1, 4, 6, 6, 9), 32),
    }  # fmt: skip
    for weights, shape in shapes.items():
        with torch.device("meta"):
            assert sum(each.numel() for each in EfficientViTNet(*shape, scale=5).parameters()) == weights


def test_the_last_two_stages_attend_and_the_block_that_halves_counts_in_the_others() -> None:
    parts = [*EfficientViTNet(2, (1, 2, 1, 2, 1), 4, 3).parts]
    names = [
        type(part.inner if isinstance(part, Residual) else part).__name__ + "+" * isinstance(part, Residual)
        for part in parts[3:]
    ]
    attends = ["MultiScaleAttention+", "Bottleneck+"]
    local = ["Separable+", "Bottleneck", "Bottleneck+", "Bottleneck"]
    assert names == [*local, "Bottleneck", *attends * 2, "Bottleneck", *attends]


@pytest.mark.parametrize(
    "setting", [EfficientViT(64, 4, (1, 1, 1, 1, 1), 8, 5), EfficientViT(128, 2, (2, 3, 1, 1, 2), 16, 3)]
)
def test_the_llm_starts_from_so_many_tokens_a_frame_and_the_work_is_counted(device: str, setting: EfficientViT) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    one, again = (lvlm.run(request, [setting]) for _ in range(2))
    assert torch.equal(one.logits_NC, again.logits_NC)
    side = setting.resolution // 32
    assert one.trace.llm_vision_tokens == [6 * side**2] * 4
    width, places, head = setting.width, (setting.resolution // 2) ** 2, setting.head_width

    def bottleneck(channels: int, out: int, entering: int, leaving: int) -> int:
        return 4 * channels * (entering * channels + leaving * 9 + leaving * out)

    work = 27 * places * width + setting.depths[0] * places * (9 * width + width**2)
    for stage, depth in enumerate(setting.depths[1:], 1):
        work += bottleneck(width, 2 * width, places, places // 4)
        width, places = 2 * width, places // 4
        local = bottleneck(width, width, places, places)
        if stage < 3:
            work += (depth - 1) * local
            continue
        summed = (head + 1) * head * places if places > head else places**2 * head
        attention = places * width * (3 * width + 3 * setting.scale**2 + 3 * head + 2 * width)
        work += depth * (local + attention + 2 * width // head * 2 * summed)
    assert one.trace.encoder_flop == 6 * 2 * (work + places * width * 32)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"resolution": 80}, "resolution must be a multiple of 32, the side of a patch in pixels, got 80"),
        ({"resolution": 0}, "resolution must be at least 32, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"head_width": 0}, "head_width must be at least 1, got 0"),
        ({"head_width": 24}, "head_width must divide 128, the channels that attend first, got 24"),
        ({"scale": 4}, "scale must be odd, so that the map keeps its size, got 4"),
        ({"scale": 0}, "scale must be at least 1, got 0"),
        ({"depths": (1, 2, 3, 3)}, "depths must be 5 numbers of at least 1"),
        ({"depths": (1, 2, 3, 3, 0)}, "depths must be 5 numbers of at least 1"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EfficientViT(**wrong)
