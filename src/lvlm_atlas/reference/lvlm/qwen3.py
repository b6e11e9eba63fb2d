"""The Qwen3-VL dialect: DeepStack, and a video whose temporal patches stand apart, each behind its time in words.

F frames, T temporal patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import replace

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.config import DeepStackLVLMConfig
from lvlm_atlas.reference.lvlm.deepstack_vision import DeepStackTower, PatchMerger
from lvlm_atlas.reference.lvlm.native import NativeVL
from lvlm_atlas.reference.lvlm.prompt import Clip


class Qwen3VL(NativeVL):
    """What is Qwen3-VL's own between pixels and decoder; see `NativeVL`."""

    config: DeepStackLVLMConfig

    def __init__(self, config: DeepStackLVLMConfig) -> None:
        super().__init__(config, DeepStackTower(config), PatchMerger(config))

    def clips(
        self,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,  # noqa: ARG002 - the ids say it
    ) -> tuple[Clip, ...]:
        """See `Dialect`: images, then videos, whose times the ids state."""
        depth = self.config.vision.temporal_patch_size
        stills = [Clip(frames) for frames in self.pictures(pixel_values, image_grid_thw)]
        videos = self.pictures(pixel_values_videos, video_grid_thw)
        return (*stills, *(Clip(frames, torch.zeros(len(frames) // depth)) for frames in videos))

    @property
    def offers(self) -> frozenset[str]:
        """See `Dialect`: patches attend to all of their temporal patch."""
        return super().offers | {"full-encoder-attention"}

    def times(self, second_F: Tensor) -> Tensor:
        """See `NativeVL`: the middle between the first frame and the last, seconds."""
        depth = self.config.vision.temporal_patch_size
        return (second_F[::depth].double() + second_F[depth - 1 :: depth].double()) / 2

    def parts(self, video: VisionTokens) -> Iterable[VisionTokens]:
        """See `NativeVL`: each temporal patch has the positions of a still."""
        return video.stills()

    def expand(self, request: Request, tokens: Seq[VisionTokens]) -> Tensor:
        """See `Dialect`: a temporal patch of a video stands between the marks, behind its time if it can be written.

        Where there are fewer blocks than temporal patches, nothing stands for the last ones.
        """
        if request.tokenize is None or all(each.time_T is None for each in tokens):
            return super().expand(request, tokens)
        depth, start, end = (
            self.config.vision.temporal_patch_size, self.config.vision_start_token_id, self.config.vision_end_token_id,
        )  # fmt: skip
        times, frame = (each.time_T for each in tokens if each.time_T is not None), 0
        seconds: dict[int, float] = {}  # of frames that begin a temporal patch
        prompt: list[int] = []
        for clip in request.clips:
            if not self.are_stills(request, clip):  # there may be fewer blocks than temporal patches
                seconds |= dict(zip(range(clip.start, clip.stop, depth), next(times).tolist(), strict=False))
        for token, is_frame in zip(request.prompt_N.tolist(), request.is_frame_N.tolist(), strict=True):
            second = seconds.get(frame) if is_frame else None
            if second is None:
                prompt.append(token)
            else:
                prompt += [*request.tokenize(f"<{second:.1f} seconds>"), start, token, end]
            frame += is_frame
        return super().expand(replace(request, prompt_N=torch.tensor(prompt)), tokens)
