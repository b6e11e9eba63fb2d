"""The dimensions that the engine's walk takes, of a request to the reference LVLM. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lvlm_atlas.roofline.dimensions import Dimensions
from lvlm_atlas.roofline.tokens.anyres_unpad import anyres_unpad
from lvlm_atlas.roofline.tokens.smart_resize import token_grid
from lvlm_atlas.roofline.visual import Patches, Steps, Visual

if TYPE_CHECKING:
    from lvlm_atlas.reference.lvlm.config import Config


def dimensions_of(
    config: Config, *, frames: int, text_tokens: int, output_tokens: int, element_byte: int
) -> Dimensions:
    """The dimensions of a request to the reference LVLM.

    Args:
        config: the model.
        frames: frames of the request, each of the size that the model's encoder is made for.
        text_tokens: text tokens of the prompt.
        output_tokens: tokens asked for.
        element_byte: bytes of a cached number that is not quantised.
    """
    vision, text, factor = config.vision, config.text, config.vision.factor

    def visual(frame_share: float, pixels: tuple[Steps, ...] | None) -> Visual:
        """`frames_a_patch` frames share a patch, the last filled up. A tower of one size resizes frames back to it."""
        kept = round(frames * frame_share)
        (height, width), patches = config.frame_size, vision.patches
        for step in pixels[0] if pixels else ():
            rows, columns = _resized((height, width), factor, step)
            height, width = rows * factor, columns * factor
            patches = rows * columns * config.patches_a_token if factor > 1 else patches
        entering = (float(height * width),)
        if canvases := getattr(config, "image_grid_pinpoints", ()):
            tower: Any = vision  # of one input size, as its tiles are
            tiled = anyres_unpad(
                [(width, height)] * kept, tile=tower.image_size, patch=tower.patch_size,
                class_token=True, pinpoints_hw=canvases,
            )  # fmt: skip
            return replace(tiled, pixels=entering)
        sequences = math.ceil(kept / config.frames_a_patch)
        tokens = sequences * patches // config.patches_a_token
        shape = Patches(sequences, patches + config.class_tokens, patches)
        return Visual((shape,), tokens, tokens, frames=kept, pixels=entering)

    return Dimensions(
        visual=visual, text_tokens=text_tokens, output_tokens=output_tokens, encoder_layers=config.encoder_layers,
        encoder_heads=vision.num_attention_heads, encoder_hidden=vision.hidden_size, layers=text.num_hidden_layers,
        heads=text.num_attention_heads, kv_heads=text.num_key_value_heads, head_dim=text.head_dim,
        hidden=text.hidden_size, element_byte=element_byte,
    )  # fmt: skip


def _resized(size: tuple[int, int], factor: int, pixels: float) -> tuple[int, int]:
    """Rows and columns that a frame is resized to: of tokens where the tower takes any size, else of pixels."""
    height, width = size
    columns, rows = token_grid(width, height, factor=factor, min_pixels=pixels, max_pixels=pixels, kind="frame")
    return rows, columns
