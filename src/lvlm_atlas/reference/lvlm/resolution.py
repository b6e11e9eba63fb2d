"""Qwen2.5-VL's rule from pixels to tokens, as the published processors apply it.

f is the side of the square of pixels that becomes one token, 28 in the published models. Qwen3-VL rounds alike, with
f = 32.
"""

from __future__ import annotations

import math

FACTOR = 28
"""f of the published models: patches of 14 pixels, 2 × 2 merged."""
MOST_ASPECT = 200
"""A picture may be this many times longer than wide."""
IMAGE_TOKENS = (4, 16_384)
"""Least and most tokens of an image, as the published folders have it; the processor's class alone says 1280."""
FRAME_TOKENS = (128, 768)
"""Least and most tokens of a video's frame, if it were an image."""
VIDEO_TOKENS = 128_000
"""The context length; nine tenths of it are a video's budget."""
FRAMES = (4, 768)
"""Least and most frames of a video."""


def smart_resize(
    height: int, width: int, factor: int = FACTOR, pixels: tuple[float, float] | None = None
) -> tuple[int, int]:
    """Height and width nearest to a picture's that are multiples of f and hold `pixels`, least to most.

    Halves round to even. A picture that is too large shrinks in proportion and rounds down; one too small grows
    and rounds up.

    Args:
        height: pixels.
        width: pixels.
        factor: f.
        pixels: least and most; None means those of `IMAGE_TOKENS`.

    Raises:
        ValueError: a side is less than one pixel, or one is over 200 times the other.
    """
    if min(height, width) < 1 or max(height, width) > MOST_ASPECT * min(height, width):
        raise ValueError(f"a picture's sides must differ by a factor of {MOST_ASPECT} at most, got {height} × {width}")
    least, most = pixels or (IMAGE_TOKENS[0] * factor**2, IMAGE_TOKENS[1] * factor**2)
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns * factor**2 > most:
        scale = math.sqrt(height * width / most)
        rows, columns = (max(1, math.floor(side / scale / factor)) for side in (height, width))
    elif rows * columns * factor**2 < least:
        scale = math.sqrt(least / (height * width))
        rows, columns = (math.ceil(side * scale / factor) for side in (height, width))
    return rows * factor, columns * factor


def image_tokens(height: int, width: int, factor: int = FACTOR, tokens: tuple[int, int] = IMAGE_TOKENS) -> int:
    """Vision tokens of an image; `tokens` are the least and the most."""
    rows, columns = smart_resize(height, width, factor, (tokens[0] * factor**2, tokens[1] * factor**2))
    return rows // factor * (columns // factor)


def sampled_frames(total: int, source_fps: float, fps: float = 2.0, frames: tuple[int, int] = FRAMES) -> int:
    """How many of a video's frames are read: `fps` a second, within `frames`, an even number.

    Raises:
        ValueError: the video has fewer than two frames.
    """
    if total < 2:
        raise ValueError(f"a video must have two frames at least, got {total}")
    least, most = frames[0], min(frames[1], total) // 2 * 2
    return math.floor(min(max(total / source_fps * fps, least), most) / 2) * 2


def video_frame_size(
    height: int, width: int, frames: int, factor: int = FACTOR, budget: int = VIDEO_TOKENS
) -> tuple[int, int]:
    """Height and width of a video's frames: each gets an even share of the budget, within `FRAME_TOKENS`.

    Two frames share their tokens. The most lies a twentieth above the least, so that there is a size between.

    Args:
        height: pixels of the source.
        width: pixels of the source.
        frames: frames that are read.
        factor: f.
        budget: context length, in tokens.
    """
    least, most = (tokens * factor**2 for tokens in FRAME_TOKENS)
    share = int(budget * factor * factor * 0.9) * 2 // frames
    return smart_resize(height, width, factor, (least, max(min(most, share), int(least * 1.05))))


def video_tokens(height: int, width: int, frames: int, factor: int = FACTOR, budget: int = VIDEO_TOKENS) -> int:
    """Vision tokens of a video of `frames` frames that are read; an odd last one is repeated."""
    height, width = video_frame_size(height, width, frames, factor, budget)
    return -(-frames // 2) * (height // factor) * (width // factor)
