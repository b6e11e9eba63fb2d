"""What is asked of the LVLM, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.ops.sampling import distribution


@dataclass(frozen=True, kw_only=True)
class Request:
    """Frames and a prompt. One request is one sequence.

    Raises:
        ValueError: a frame has not three channels.
    """

    frames_F3HW: Tensor | tuple[Tensor, ...]
    """Normalised pixels: frames of a video or images of one size, (F, 3, H, W); or images (3, H, W), each of a size of
    its own."""
    prompt_N: Tensor
    """Token ids, with one placeholder for each frame, in order."""
    image_token_id: int
    """The placeholder, one of the model that answers; it also says whether frames are stills or a video's."""
    video_token_id: int | None = None
    """The placeholder of frames of videos beside stills, which `image_token_id` then marks; a still ends a video. None:
    all frames are of one kind."""
    max_new_tokens: int = 16
    temperature: float = 0.0
    """0 decodes greedily."""
    top_p: float = 1.0
    """Tokens are drawn from the fewest likeliest whose probabilities reach this sum; 1 draws from all."""
    seed: int = 0
    """Seed of every random draw of the run."""
    second_F: Tensor | None = None
    """When each frame was, seconds; None means two frames a second from 0 on, in each clip anew."""
    tokenize: Callable[[str], Seq[int]] | None = None
    """From text to token ids, for models that write a frame's time into the prompt; None means that none is written."""

    def __post_init__(self) -> None:
        frames = self.frames_F3HW
        for shape in [frames.shape[1:]] if isinstance(frames, Tensor) else [image.shape for image in frames]:
            if len(shape) != 3 or shape[0] != 3:
                raise ValueError(f"a frame must be (3, H, W), got {tuple(shape)}; give channels first, three of them")

    @property
    def runs(self) -> list[Tensor]:
        """The frames, (F, 3, H, W) for each run of neighbours of one size and one clip."""
        return [run_F3HW for clip in self.clips for run_F3HW in self.runs_of(clip)]

    def runs_of(self, clip: slice) -> list[Tensor]:
        """The frames of a clip, (F, 3, H, W) for each run of neighbours of one size."""
        frames = self.frames_F3HW[clip]
        if isinstance(frames, Tensor):
            return [frames]
        return [torch.stack([*run]) for _, run in groupby(frames, key=lambda frame: frame.shape)]

    @property
    def is_frame_N(self) -> Tensor:  # noqa: N802 - names carry shapes
        """True where a placeholder stands in the prompt."""
        is_frame_N = self.prompt_N == self.image_token_id
        return is_frame_N if self.video_token_id is None else is_frame_N | (self.prompt_N == self.video_token_id)

    @property
    def clips(self) -> list[slice]:
        """Neighbours behind the same placeholder: the frames of a video, or stills.

        Raises:
            ValueError: there are stills and a video, and the prompt has not one placeholder a frame.
        """
        if not len(self.frames_F3HW):
            return []
        if self.video_token_id is None:
            return [slice(0, len(self.frames_F3HW))]
        tokens = self.prompt_N[self.is_frame_N].tolist()
        if len(tokens) != len(self.frames_F3HW):
            raise placeholders_error(len(tokens), len(self.frames_F3HW))
        clips, first = [], 0
        for _, clip in groupby(tokens):
            clips.append(slice(first, first := first + len([*clip])))
        return clips

    def is_video(self, clip: slice) -> bool:
        """Whether `video_token_id` marks the frames of a clip."""
        return self.video_token_id is not None and int(self.prompt_N[self.is_frame_N][clip][0]) == self.video_token_id

    @property
    def seconds_F(self) -> Tensor:  # noqa: N802 - names carry shapes
        """When each frame was, seconds."""
        if self.second_F is not None:
            return self.second_F.cpu()
        return torch.cat([torch.empty(0), *(torch.arange(clip.stop - clip.start) / 2 for clip in self.clips)])

    def keep_frames(self, index_K: Tensor) -> Request:
        """Only these frames (ascending), with their placeholders and their times."""
        is_frame_N = self.is_frame_N
        kept_N = ~is_frame_N
        kept_N[is_frame_N.nonzero()[:, 0][index_K]] = True
        return replace(
            self,
            frames_F3HW=(
                self.frames_F3HW[index_K]
                if isinstance(self.frames_F3HW, Tensor)
                else tuple(self.frames_F3HW[index] for index in index_K.tolist())
            ),
            prompt_N=self.prompt_N[kept_N],
            second_F=self.seconds_F[index_K],
        )

    def distribution(self, logits: Tensor) -> Tensor:
        """What the next token is drawn from (…, C), float32, by temperature and top-p."""
        return distribution(logits, self.temperature, self.top_p)

    @property
    def text_N(self) -> Tensor:  # noqa: N802 - names carry shapes
        """The prompt without its placeholders."""
        return self.prompt_N[~self.is_frame_N]


def placeholders_error(placeholders: int, frames: int) -> ValueError:
    """The error of a prompt that has not one placeholder a frame."""
    return ValueError(f"the prompt has {placeholders} image placeholders for {frames} frames; give one a frame")


@dataclass(frozen=True, kw_only=True)
class Result:
    """The answer, and the trace of how it came about."""

    tokens_N: Tensor
    """Generated token ids."""
    logits_NC: Tensor
    """The target's logits from which each of them was chosen, float32."""
    trace: Trace
    """Where the answer took several runs, their sum; see `Trace.total`."""
    rounds: tuple[Round, ...] = ()
    """These runs, in order; empty where there was one."""


@dataclass(frozen=True)
class Round:
    """A run of several that an answer took."""

    request: Request
    result: Result
