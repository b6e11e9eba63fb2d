"""Which canvas an image is scaled and padded to: shared by LLaVA-NeXT, LLaVA-OneVision and DeepSeek-VL2."""

from __future__ import annotations

from collections.abc import Iterable


def select_canvas(width: int, height: int, canvases: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The canvas that keeps most of the image's pixels, and among those the one that wastes least.

    Args:
        width: pixels of the image.
        height: pixels of the image.
        canvases: (height, width) in pixels; the first wins a full tie.

    Returns:
        Height and width of the canvas.

    Source: `select_best_resolution` of transformers 4.51 and DeepSeek-VL2, which agree.
    """

    def merit(canvas: tuple[int, int]) -> tuple[int, int]:
        scale = min(canvas[1] / width, canvas[0] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, -canvas[0] * canvas[1]  # of equal pixels, the smaller canvas wastes less

    return max(canvases, key=merit)
