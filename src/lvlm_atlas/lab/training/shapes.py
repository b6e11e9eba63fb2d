"""Shapes of the lab's models, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lvlm_atlas.lab.photographs.scene import SIDE
from lvlm_atlas.lab.tasks.vocabulary import END, IMAGE, VIDEO, token_ids, vocabulary
from lvlm_atlas.reference.lvlm.config import (
    Config,
    LVLMConfig,
    TextConfig,
    VisionConfig,
    WindowLVLMConfig,
    WindowVisionConfig,
)
from lvlm_atlas.reference.lvlm.windows import coordinates

TEXT: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2}  # fmt: skip
"""The decoder of all dialects."""
MULTIPLE = 16
"""What the vocabulary is rounded up to."""


def shapes() -> dict[str, Config]:
    """The models: one a dialect."""
    words = -(-len(vocabulary()) // MULTIPLE) * MULTIPLE
    image, video, ends = token_ids(IMAGE)[0], token_ids(VIDEO)[0], tuple(token_ids(END))
    return {
        "llava": LVLMConfig(
            vision=VisionConfig(
                image_size=SIDE,
                patch_size=8,
                hidden_size=96,
                intermediate_size=192,
                num_hidden_layers=4,
                num_attention_heads=4,
                hidden_act="gelu",
            ),
            text=TextConfig(vocab_size=words, **TEXT),
            image_token_id=image,
            eos_token_ids=ends,
            vision_feature_layer=-1,
        ),
        "qwen2_5_vl": WindowLVLMConfig(
            vision=WindowVisionConfig(
                patch_size=4,
                window_size=SIDE // 3,
                full_attention_layers=(3,),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=4,
                num_attention_heads=4,
            ),
            text=TextConfig(vocab_size=words, rope_sections=(4, 6, 6), qkv_bias=True, **TEXT),
            image_token_id=image,
            video_token_id=video,
            eos_token_ids=ends,
        ),
    }


def grid(config: Config) -> int:
    """Patches that a picture of the lab has along each side."""
    return SIDE // config.vision.patch_size


def vision_tokens(config: Config) -> int:
    """Vision tokens that a picture of the lab becomes."""
    return grid(config) ** 2 // config.patches_a_token


def patch_order(config: Config) -> Tensor:
    """Places (P,), row by row, of the patches in the order in which the encoder has them."""
    side = grid(config)
    if isinstance(config, LVLMConfig):
        return torch.arange(side**2)
    place_P2 = coordinates(side, side, config.vision, torch.device("cpu"))
    return place_P2[:, 0] * side + place_P2[:, 1]


def smaller(config: Config, vision: Mapping[str, int], text: Mapping[str, int]) -> Config:
    """A model's shapes with some numbers of its encoder and decoder changed."""
    towers: tuple[tuple[Any, Mapping[str, Any]], ...] = ((config.vision, vision), (config.text, text))
    changed = [replace(tower, **numbers) for tower, numbers in towers]
    return replace(config, vision=changed[0], text=changed[1])
