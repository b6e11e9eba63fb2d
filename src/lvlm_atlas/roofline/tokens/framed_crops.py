"""The whole image in a square frame, and crops of it where it is larger than one: DeepSeek-OCR."""

from __future__ import annotations

from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.dynamic_tiling import nearest_grid
from lvlm_atlas.roofline.tokens.shapes import merged, tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual


def framed_crops(
    sizes: Sequence[tuple[int, int]], *, frame: int, tile: int, patch: int, min_tiles: int, max_tiles: int
) -> Visual:
    """Each image is padded to the frame; one that is larger than a crop is cut as well, along the nearest grid.

    Rows of both parts end with a learned newline vector, and one separator follows.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        frame: side in pixels of the view of the whole.
        tile: side of a crop in pixels.
        patch: side in pixels of what becomes one token.
        min_tiles: least crops of an image that is cut.
        max_tiles: most crops.

    Raises:
        AtlasError: a size that no image has.

    Source: vllm-project/vllm, transformers_utils/processors/deepseek_ocr.py at 02b3747, whose mode is that of 1,024 and
    640 pixels with crops; the model's other modes are frames without crops.
    """
    whole, side = frame // patch, tile // patch
    crops = token = rows_of_tokens = 0
    for width, height in checked(sizes):
        token += whole**2
        rows_of_tokens += whole + 1
        if max(width, height) > tile:
            columns, rows = nearest_grid(width, height, tile=tile, min_tiles=min_tiles, max_tiles=max_tiles)
            crops += columns * rows
            token += columns * rows * side**2
            rows_of_tokens += rows * side
    views = tiles(len(sizes), tile=frame, patch=patch, class_token=True)
    cut = tiles(crops, tile=tile, patch=patch, class_token=True)
    return Visual(merged((*views, *cut)), token, token + rows_of_tokens, frames=len(sizes))
