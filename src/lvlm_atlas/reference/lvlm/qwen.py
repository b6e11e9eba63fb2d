"""The Qwen2.5-VL dialect: windows in the encoder, a video's tokens all together, their time in their positions.

F frames, T temporal patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.config import WindowLVLMConfig
from lvlm_atlas.reference.lvlm.native import NativeVL
from lvlm_atlas.reference.lvlm.prompt import Clip
from lvlm_atlas.reference.lvlm.window_vision import PatchMerger, WindowTower


class QwenVL(NativeVL):
    """What is Qwen2.5-VL's own between pixels and decoder; see `NativeVL`."""

    config: WindowLVLMConfig

    def __init__(self, config: WindowLVLMConfig) -> None:
        super().__init__(config, WindowTower(config.vision), PatchMerger(config))

    def clips(
        self,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Tensor | Seq[float] | None = None,
        mm_token_type_ids: Tensor | None = None,  # noqa: ARG002 - the ids say it
    ) -> tuple[Clip, ...]:
        """See `Dialect`: images, then videos; a temporal patch of a video lasts one second if nothing says so."""
        stills = [Clip(frames) for frames in self.pictures(pixel_values, image_grid_thw)]
        videos = list(self.pictures(pixel_values_videos, video_grid_thw))
        lasts = [1.0] * len(videos) if second_per_grid_ts is None else [float(each) for each in second_per_grid_ts]
        if len(lasts) != len(videos):
            raise ValueError(f"second_per_grid_ts must be one for each of {len(videos)} videos, got {len(lasts)}")
        return (*stills, *(Clip(x, self._times(x, second)) for x, second in zip(videos, lasts, strict=True)))

    def times(self, second_F: Tensor) -> Tensor:
        """See `NativeVL`: that of the first frame, in temporal position ids, not yet whole."""
        return second_F[:: self.config.vision.temporal_patch_size] * self.config.tokens_per_second

    def parts(self, video: VisionTokens) -> Iterable[VisionTokens]:
        """See `NativeVL`: all of it."""
        return (video,) if any(video.lengths) else ()

    def _times(self, frames_F3HW: Tensor, second: float) -> Tensor:
        """When each temporal patch of a video was, in position ids."""
        times = len(frames_F3HW) // self.config.vision.temporal_patch_size
        return torch.arange(times) * (self.config.tokens_per_second * second)
