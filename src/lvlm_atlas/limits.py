"""How large numbers may be: far above any real one, and small enough to be counted and multiplied without harm."""

from __future__ import annotations

MOST_COUNT = 10**13
"""Of anything that is counted: parameters, tokens, rows."""
MOST_LAYER = 2_000
"""Layers of an encoder or an LLM."""
MOST_WIDTH = 10**7
"""Of a hidden state, a head, a vocabulary."""
MOST_PIXEL = 10**6
"""On a side of an image or a frame."""
MOST_RATE = 10**9
"""Of what a device does, moves or holds, in T or G a second, GB, W or microseconds; the least is its inverse."""

REQUEST = {
    "text_tokens": (0, 10**9), "output_tokens": (1, 10**9), "turns": (1, 10**4), "batch": (1, 10**6),
    "count": (1, 10**5), "width": (1, MOST_PIXEL), "height": (1, MOST_PIXEL), "frames": (1, 10**5),
    "min_pixels": (1, MOST_PIXEL**2), "max_pixels": (1, MOST_PIXEL**2), "vision_tokens": (1, 10**6),
}  # fmt: skip
"""Least and most of the whole numbers of a request and of its images and videos, by field."""
VIDEO = {"duration_s": (1e-6, 1e8), "sample_fps": (1e-6, 1e6), "source_fps": (1e-6, 1e6)}
"""Least and most of the other numbers of a video, by field."""
MOST_PRICE_USD_H = 1e9
"""Of a device for an hour."""
