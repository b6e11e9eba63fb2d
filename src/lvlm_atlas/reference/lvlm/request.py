"""What is asked of the LVLM, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.config import LVLMConfig
from lvlm_atlas.reference.lvlm.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Request:
    """Frames and a prompt. One request is one sequence."""

    frames_F3HW: Tensor
    """Frames of one image set or video, normalised pixels."""
    prompt_N: Tensor
    """Token ids, with one placeholder (`image_token_id`) for each frame, in order."""
    image_token_id: int
    """The placeholder, the one of the model that answers."""
    max_new_tokens: int = 16
    temperature: float = 0.0
    """0 decodes greedily."""
    seed: int = 0
    """Seed of every random draw of the run."""

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
    config: LVLMConfig,
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
    side = config.vision.image_size
    pixels = torch.randn(frames, 3, side, side, generator=generator)
    words = torch.randint(0, config.image_token_id, (text_tokens,), generator=generator)
    before = text_tokens // 4 or 1
    image = torch.full((frames,), config.image_token_id)
    return Request(
        frames_F3HW=pixels,
        prompt_N=torch.cat([words[:before], image, words[before:]]),
        image_token_id=config.image_token_id,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
