"""Shapes of the reference LVLM."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A CLIP vision transformer."""

    image_size: int
    """Side of the square input, pixels."""
    patch_size: int
    """Side of a patch, pixels."""
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float = 1e-5

    @property
    def patches(self) -> int:
        """Patches of an image: (image_size / patch_size)²."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A Llama decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True)
class LVLMConfig:
    """An LVLM in the LLaVA dialect."""

    vision: VisionConfig
    text: TextConfig
    image_token_id: int
    """Placeholder in the prompt, one for each frame."""
    eos_token_id: int | None = None
    """Token that ends the answer; None means that only the limit ends it."""
    vision_feature_layer: int = -2
    """Index into the encoder's hidden states, embeddings first; -2 leaves out the last layer."""
    vision_feature_select_strategy: str = "default"
    """`default` drops the class token, `full` keeps it."""

    @property
    def encoder_layers(self) -> int:
        """Encoder layers that run: those up to `vision_feature_layer`."""
        states = self.vision.num_hidden_layers + 1
        return self.vision_feature_layer % states


PRESETS = {
    "tiny": LVLMConfig(
        vision=VisionConfig(
            image_size=56,
            patch_size=7,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
        ),
        text=TextConfig(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        image_token_id=127,
    ),
    "tiny-mha": LVLMConfig(
        vision=VisionConfig(
            image_size=42,
            patch_size=7,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
        ),
        text=TextConfig(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
        ),
        image_token_id=127,
    ),
}
"""Configurations by name; weights are random."""
