"""Requests without content, for tests and measurements."""

from __future__ import annotations

import torch

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.lvlm.config import Config


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
    pixels = torch.randn(frames, 3, *config.frame_size, generator=generator)
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
