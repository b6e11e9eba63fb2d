"""Shapes of the lab's models, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lvlm_atlas.lab.photographs.scene import SIDE
from lvlm_atlas.lab.tasks.vocabulary import END, IMAGE, token_ids, vocabulary
from lvlm_atlas.reference.lvlm.config import Config, LVLMConfig, TextConfig, VisionConfig

MULTIPLE = 16
"""What the vocabulary is rounded up to."""


def shapes() -> dict[str, Config]:
    """The models: one a dialect."""
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
            text=TextConfig(
                vocab_size=-(-len(vocabulary()) // MULTIPLE) * MULTIPLE,
                hidden_size=128,
                intermediate_size=320,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
            ),
            image_token_id=token_ids(IMAGE)[0],
            eos_token_ids=tuple(token_ids(END)),
            vision_feature_layer=-1,
        ),
    }


def smaller(config: Config, vision: Mapping[str, int], text: Mapping[str, int]) -> Config:
    """A model's shapes with some numbers of its encoder and decoder changed."""
    towers: tuple[tuple[Any, Mapping[str, Any]], ...] = ((config.vision, vision), (config.text, text))
    changed = [replace(tower, **numbers) for tower, numbers in towers]
    return replace(config, vision=changed[0], text=changed[1])
