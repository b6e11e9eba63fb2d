"""Shapes of the reference LVLM. Fields that a published configuration has keep its names."""

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
    hidden_act: str = "quick_gelu"
    """A name in `ACTIVATIONS`."""

    @property
    def patches(self) -> int:
        """Patches of an image: (image_size / patch_size)²."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A decoder of Llama's kind."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_sections: tuple[int, ...] = ()
    """Of a head's d/2 frequencies, how many follow each axis of the position; empty means one axis for all."""
    head_width: int | None = None
    """Width of a head where it is not hidden_size / num_attention_heads."""
    qkv_bias: bool = False
    """Whether the projections to queries, keys and values have biases."""
    output_bias: bool = False
    """Whether attention's output projection has one."""
    mlp_bias: bool = False
    """Whether the MLP's projections have them."""
    tie_word_embeddings: bool = False
    """Whether the head is the embedding, one tensor."""
    hidden_act: str = "silu"
    """A name in `ACTIVATIONS`."""

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.head_width or self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True)
class LVLMConfig:
    """An LVLM in the LLaVA dialect."""

    vision: VisionConfig
    text: TextConfig
    image_token_id: int
    """Placeholder in the prompt, one for each frame."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer; none means that only the limit ends it."""
    vision_feature_layer: int = -2
    """Index into the encoder's hidden states, embeddings first; -2 leaves out the last layer."""
    vision_feature_select_strategy: str = "default"
    """`default` drops the class token, `full` keeps it."""
    projector_hidden_act: str = "gelu"
    """A name in `ACTIVATIONS`."""
    projector_bias: bool = True
    """Whether the adapter's projections have biases."""

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
    "llava-1.5-7b": LVLMConfig(
        vision=VisionConfig(
            image_size=336,
            patch_size=14,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
        ),
        text=TextConfig(
            vocab_size=32_064,
            hidden_size=4096,
            intermediate_size=11_008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
        ),
        image_token_id=32_000,
        eos_token_ids=(2,),
    ),
}
"""Configurations by name; weights are random. Those called tiny are for tests, the others have published shapes."""
