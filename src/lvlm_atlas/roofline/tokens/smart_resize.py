"""Native resolution within pixel limits: Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.tokens.shapes import merged
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Patches, Visual

MOST_ASPECT = 200
"""An image may be this many times longer than wide."""


def smart_resize(
    sizes: Sequence[tuple[int, int]],
    *,
    patch: int,
    merge: int,
    min_pixels: int,
    max_pixels: int,
    window: int | None = None,
) -> Visual:
    """Each image goes to the nearest size that whole tokens cover, its pixels within limits.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        patch: side of a patch in pixels.
        merge: patches along a side that become one token.
        min_pixels: least pixels of an image; smaller ones are enlarged.
        max_pixels: most pixels of an image; larger ones shrink.
        window: side, in tokens, of the windows in which most of Qwen2.5-VL's layers attend: 4, which are 8 patches or
            112 pixels; None: all layers attend to the whole image.

    Raises:
        AtlasError: a size that no image has, or one side is over 200 times the other.

    Source: transformers 4.51 and 5.23, qwen2_vl; windows after `get_window_index` of qwen2_5_vl. The limits differ
    between the folders that were released (16,384 tokens) and the class (1,280), so they are the record's to give.
    qwen-vl-utils 0.0.14 clamps sides to one token before it looks at the limits, which differs for slivers only.
    """
    shapes, token = [], 0
    for (width, height), count in Counter(checked(sizes)).items():
        columns, rows = token_grid(
            width, height, factor=patch * merge, min_pixels=min_pixels, max_pixels=max_pixels, kind="image"
        )
        shapes.append(sequence(columns, rows, merge, window, count))
        token += count * columns * rows
    return Visual(merged(shapes), token, token, frames=len(sizes))


def token_grid(
    width: int, height: int, *, factor: int, min_pixels: float, max_pixels: float, kind: str, scale_by: float = 1.0
) -> tuple[int, int]:
    """Columns and rows of tokens, each a square of `factor` pixels; halves round to even.

    Args:
        width: pixels.
        height: pixels.
        factor: side of a token in pixels.
        min_pixels: least pixels.
        max_pixels: most pixels.
        kind: what the sizes belong to, for the message.
        scale_by: factor of both limits where a size is scaled to them, and not where it is held against them.

    Raises:
        AtlasError: one side is over 200 times the other.
    """
    aspect = max(width, height) / min(width, height)
    if aspect > MOST_ASPECT:
        raise AtlasError(
            f"{kind} {width}x{height}: one side is {aspect:.4g} times the other, {MOST_ASPECT} is the most that "
            f"smart_resize takes; crop the {kind}"
        )
    columns, rows = round(width / factor), round(height / factor)
    area = columns * rows * factor**2
    if area > max_pixels:
        shrink = math.sqrt(height * width / (max_pixels * scale_by))
        columns, rows = (max(1, math.floor(side / shrink / factor)) for side in (width, height))
    elif area < min_pixels:
        grow = math.sqrt(min_pixels * scale_by / (height * width))
        columns, rows = (math.ceil(side * grow / factor) for side in (width, height))
    return columns, rows


def sequence(columns: int, rows: int, merge: int, window: int | None, count: int = 1) -> Patches:
    """Encoder sequences of `columns` x `rows` tokens before merging.

    Windows are cut from the top left corner and those at the far edges are smaller, so the pairs of a layer, summed
    over windows of a x b tokens, (merge² a b)², factor into a sum over the columns and one over the rows.
    """
    patch = columns * rows * merge**2
    pairs = None if window is None else merge**4 * _squares(columns, window) * _squares(rows, window)
    return Patches(count, patch, patch, pairs)


def _squares(length: int, window: int) -> int:
    """Sum of the squared lengths of the windows along one side."""
    whole, rest = divmod(length, window)
    return whole * window**2 + rest**2
