"""What is asked of the LVLM, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Request:
    """Frames and a prompt. One request is one sequence."""

    frames_F3HW: Tensor
    """Frames of one image set or video, normalised pixels."""
    prompt_N: Tensor
    """Token ids, with one placeholder (`image_token_id`) for each frame, in order."""
    image_token_id: int
    """The placeholder, one of the model that answers; it also says whether frames are stills or a video's."""
    max_new_tokens: int = 16
    temperature: float = 0.0
    """0 decodes greedily."""
    seed: int = 0
    """Seed of every random draw of the run."""
    second_F: Tensor | None = None
    """When each frame was, seconds; None means two frames a second from 0 on."""

    @property
    def seconds_F(self) -> Tensor:  # noqa: N802 - names carry shapes
        """When each frame was, seconds."""
        return torch.arange(len(self.frames_F3HW)) / 2 if self.second_F is None else self.second_F.cpu()

    def keep_frames(self, index_K: Tensor) -> Request:
        """Only these frames (ascending), with their placeholders and their times."""
        is_frame_N = self.prompt_N == self.image_token_id
        kept_N = ~is_frame_N
        kept_N[is_frame_N.nonzero()[:, 0][index_K]] = True
        return replace(
            self,
            frames_F3HW=self.frames_F3HW[index_K],
            prompt_N=self.prompt_N[kept_N],
            second_F=self.seconds_F[index_K],
        )

    @property
    def text_N(self) -> Tensor:  # noqa: N802 - names carry shapes
        """The prompt without its placeholders."""
        return self.prompt_N[self.prompt_N != self.image_token_id]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The answer, and the trace of how it came about."""

    tokens_N: Tensor
    """Generated token ids."""
    logits_NC: Tensor
    """The target's logits from which each of them was chosen, float32."""
    trace: Trace


def random_request(
    config: Config,
    *,
    frames: int = 6,
    text_tokens: int = 16,
    max_new_tokens: int = 12,
    temperature: float = 0.0,
    seed: int = 0,
) -> Request:
    """A request of random frames and random text: text before, the frames, text after.

    Raises:
        ValueError: fewer than one frame or two text tokens.
    """
    if frames < 1 or text_tokens < 2:
        raise ValueError(f"a request needs a frame and two text tokens, got {frames} and {text_tokens}")
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(frames, 3, *config.vision.frame_size, generator=generator)
    words = torch.randint(0, min(config.placeholders), (text_tokens,), generator=generator)
    before = text_tokens // 4 or 1
    image = torch.full((frames,), config.placeholders[0])
    return Request(
        frames_F3HW=pixels,
        prompt_N=torch.cat([words[:before], image, words[before:]]),
        image_token_id=config.placeholders[0],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
