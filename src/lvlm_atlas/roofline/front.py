"""The work of a smaller encoder in front of the main one, operator by operator."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.model import Front
from lvlm_atlas.roofline.operator import Work


def works(layout: Layout, front: Front, count: float, patches: int) -> Iterator[Work]:
    """The smaller encoder on `count` square images, each of which becomes so many patches of the main one. It is not
    split among devices.
    """
    b, width = layout.activation_byte, front.hidden
    side = math.isqrt(patches) * front.stride
    windows = -(-side // front.window)
    yield layout.linear("encoder.patch_embedding", count * side**2, 3 * front.patch_size**2, width)
    full = len(front.full_attention_layers)
    padded, in_windows = (windows * front.window) ** 2, windows**2 * front.window**4
    for name, law, layers, rows, pairs in (
        ("encoder.attention", "encoder-attention", full, side**2, side**4),
        ("encoder.window_attention", "window-attention", front.layers - full, padded, in_windows),
    ):
        yield layout.linear("encoder.qkv", count * rows, width, 3 * width, layers)
        scores = count * pairs * front.heads
        yield Work(
            name, "attention", flop=layers * 4 * count * pairs * width,
            activation_byte=layers * b * (4 * count * rows * width + (4 * scores if layout.materialised else 0)),
            kernels=layers * (3 if layout.materialised else 1), law=law,
        )  # fmt: skip
        yield layout.linear("encoder.output", count * rows, width, width, layers)
    tokens = count * side**2
    yield layout.linear("encoder.mlp_up", tokens, width, front.mlp, front.layers)
    yield layout.linear("encoder.mlp_down", tokens, front.mlp, width, front.layers)
    yield Work(
        "encoder.elementwise", "elementwise", activation_byte=front.layers * b * tokens * (10 * width + 2 * front.mlp),
        kernels=front.layers * 5,
    )  # fmt: skip
    for each in front.convolutions:
        tokens /= each.stride**2
        yield layout.linear("encoder.convolution", tokens, each.kernel**2 * each.into, each.out)
