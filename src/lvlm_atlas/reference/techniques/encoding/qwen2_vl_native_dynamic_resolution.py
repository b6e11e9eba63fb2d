"""Qwen2-VL's native dynamic resolution: a picture keeps its size and shape, in whole tokens and within pixel limits.

Paper: wang2024qwen2vl; code: QwenLM/Qwen3-VL, qwen-vl-utils/src/qwen_vl_utils/vision_process.py (`smart_resize`), and
transformers, models/qwen2_vl/image_processing_qwen2_vl.py.

Symbols: factor → f, the side of the square of pixels that becomes one token (28: patches of 14, 2 × 2 merged);
min_pixels → min_pixels, max_pixels → max_pixels.

Departs:
1. What the encoder must be for this is the model's: patches that two frames share, rotary positions by row and column,
   attention inside one picture, squares of 2 × 2 patches merged behind it. Models that have it run so without a
   technique; others resize what they are given to a size of their own, and save nothing.
2. Limits hold for each frame. For a video the code derives the upper one from a budget for the clip, which is
   `lvlm_atlas.reference.lvlm.resolution.video_frame_size` here and part of a model's token rule.
3. A side of less than half a token counts as none in the rounding, and the frame then grows to `min_pixels`, as in
   transformers; the utilities of the authors round it up to one. A side shrinks to one token at least, where the
   utilities can return none.
4. Frames are resized as tensors, by the antialiased bicubic filter, not as pictures of 8 bits.

F frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import Pixels
from lvlm_atlas.reference.lvlm.resolution import smart_resize
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.lvlm.tiles import resized
from lvlm_atlas.reference.refusal import Refusal


@dataclass(frozen=True)
class Qwen2VLNativeDynamicResolution(Technique):
    """At `pixels`: rounds the sides of each frame to whole tokens, and keeps its pixels within limits.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: the least is more than the most.
    """

    min_pixels: int = 3_136
    max_pixels: int = 12_845_056

    acts_at: ClassVar = ("pixels",)
    needs: ClassVar = ("native-size",)
    withholds: ClassVar = ("native-size",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "min_pixels", "max_pixels")
        if self.min_pixels > self.max_pixels:
            raise Refusal(f"min_pixels must be at most max_pixels, {self.max_pixels}, got {self.min_pixels}")

    def begin(self, run: Run) -> Any:
        """What resizes the frames of this run's model."""
        return _Acting((self.min_pixels, self.max_pixels), run.config.vision.factor)


@dataclass(frozen=True)
class _Acting:
    """The technique in a run: least and most pixels, and f."""

    pixels: tuple[int, int]
    factor: int

    def resize(self, at: Pixels) -> Tensor:
        """The frames (F, 3, H, W) at their new size."""
        height, width = at.frames_F3HW.shape[-2:]
        return resized(at.frames_F3HW, smart_resize(height, width, self.factor, self.pixels))
