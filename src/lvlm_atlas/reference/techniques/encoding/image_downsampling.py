"""Image downsampling: fewer pixels before the encoder, the baseline of every technique that removes vision tokens.

Paper: liao2025vtcbench, which takes it as the filter of samples; limits and rounding: the image processor of
Qwen2-VL (transformers, models/qwen2_vl/image_processing_qwen2_vl.py, `smart_resize`), whose options `min_pixels` and
`max_pixels` are the parameters here; code of the baseline: Chenfei-Liao/VTC-Bench, qwen2_vl.py.

Symbols: D² (1 − compression ratio) → keep_ratio, the side of the square of pixels that becomes one token → f.

Departs:
1. The frame goes to its final size in one step. VTC-Bench divides both sides by a whole number, rounds down to whole
   pixels and lets the processor round those to whole tokens, which interpolates twice.
2. `keep_ratio` is any share of the pixels, so that any share of tokens can be compared; VTC-Bench divides sides by
   whole numbers only.
3. It is a share of the pixels that would enter the encoder, sides rounded to whole tokens: a share of 1 is neutral.
4. A frame that shrinks to `min_pixels` rounds down like any other, and so may end a little below it; two steps would
   shrink it further and enlarge it again.
5. Frames are resized as tensors, by the antialiased bicubic filter, not as pictures of 8 bits.

A tower of one size (LLaVA's) resizes the frames back to its own: detail is gone, and nothing is saved.

F frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Pixels
from lvlm_atlas.reference.lvlm.resolution import smart_resize
from lvlm_atlas.reference.lvlm.technique import Run, Technique


def target_size(
    height: int, width: int, factor: int, keep_ratio: float, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Height and width to resize a frame to: multiples of f that keep its aspect ratio as far as they can.

    Rounded to whole tokens, the frame has A pixels; it is to have `keep_ratio` · A of them, `max_pixels` at most and
    `min_pixels` at least. Sides of a frame that shrinks round down, those of one that grows round up.

    Raises:
        ValueError: one side is over 200 times the other.
    """
    rows, columns = (max(1, round(side / factor)) for side in (height, width))
    pixels = max(min_pixels, min(max_pixels, keep_ratio * (rows * columns * factor**2)))
    if pixels == rows * columns * factor**2:
        return rows * factor, columns * factor
    return smart_resize(height, width, factor, (pixels, pixels))


@dataclass(frozen=True)
class Resizer:
    """What acts in a run: a setting, and the side of the square of pixels that becomes one token."""

    setting: ImageDownsampling
    factor: int

    def resize(self, at: Pixels) -> Tensor:
        """The frames (F, 3, H, W) at their new size."""
        height, width = at.frames_F3HW.shape[-2:]
        chosen = self.setting
        size = target_size(height, width, self.factor, chosen.keep_ratio, chosen.min_pixels, chosen.max_pixels)
        if size == (height, width):
            return at.frames_F3HW
        return functional.interpolate(at.frames_F3HW, size, mode="bicubic", antialias=True)


@dataclass(frozen=True)
class ImageDownsampling(Technique):
    """At `pixels`: resizes each frame to a share of its pixels, within limits.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    keep_ratio: float = 0.25
    min_pixels: int = 1
    max_pixels: int = 12_845_056

    acts_at: ClassVar = ("pixels",)
    needs: ClassVar = ("native-size",)
    withholds: ClassVar = ("native-size",)

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], got {self.keep_ratio}")
        self.expect_at_least(1, "min_pixels", "max_pixels")

    def begin(self, run: Run) -> Resizer:
        """What resizes the frames of this run's model."""
        return Resizer(self, run.config.vision.factor)
