"""Shapes of the reference LVLM. Fields that a published configuration has keep its names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from lvlm_atlas.limits import MOST_LAYER
from lvlm_atlas.reference.lvlm.shapes import Depth, Index, Positive, Shapes, Side, Width


@dataclass(frozen=True, kw_only=True)
class VisionConfig(Shapes):
    """A CLIP vision transformer."""

    image_size: Side
    """Side of the square input, pixels."""
    patch_size: Side
    """Side of a patch, pixels."""
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Depth
    num_attention_heads: Width
    layer_norm_eps: Positive = 1e-5
    hidden_act: str = "quick_gelu"
    """A name in `ACTIVATIONS`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads")
        if self.patch_size > self.image_size:
            raise ValueError(f"patch_size {self.patch_size} is above image_size {self.image_size}")

    @property
    def patches(self) -> int:
        """Patches of an image: (image_size / patch_size)²."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def factor(self) -> int:
        """What the sides of a frame are multiples of: 1, since frames of any size are resized to the tower's."""
        return 1


@dataclass(frozen=True, kw_only=True)
class TextConfig(Shapes):
    """A decoder of Llama's kind."""

    vocab_size: Width
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Depth
    num_attention_heads: Width
    num_key_value_heads: Width
    rms_norm_eps: Positive = 1e-5
    rope_theta: Positive = 10_000.0
    rope_sections: tuple[Width, ...] = ()
    """Of a head's d/2 frequencies, how many follow each axis of the position; empty means one axis for all."""
    rope_interleaved: bool = False
    """Whether neighbouring frequencies follow different axes, in turn; else each axis has one block of them."""
    head_width: Width | None = None
    """Width of a head where it is not hidden_size / num_attention_heads."""
    qkv_bias: bool = False
    """Whether the projections to queries, keys and values have biases."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normalised before they are rotated."""
    output_bias: bool = False
    """Whether attention's output projection has one."""
    mlp_bias: bool = False
    """Whether the MLP's projections have them."""
    tie_word_embeddings: bool = False
    """Whether the head is the embedding, one tensor."""
    hidden_act: str = "silu"
    """A name in `ACTIVATIONS`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        heads, shared = self.num_attention_heads, self.num_key_value_heads
        if heads % shared:
            raise ValueError(f"{heads} heads cannot share {shared} key-value heads evenly")
        if self.head_width is None and self.hidden_size % heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of {heads} heads")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.head_width or self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True)
class LVLMConfig(Shapes):
    """An LVLM in the LLaVA dialect."""

    vision: VisionConfig
    text: TextConfig
    image_token_id: Index
    """Placeholder in the prompt, one for each frame."""
    eos_token_ids: tuple[Index, ...] = ()
    """Tokens that end the answer; none means that only the limit ends it."""
    vision_feature_layer: Annotated[int, -MOST_LAYER, MOST_LAYER] = -2
    """Index into the encoder's hidden states, embeddings first; -2 leaves out the last layer."""
    vision_feature_select_strategy: str = "default"
    """`default` drops the class token, `full` keeps it."""
    projector_hidden_act: str = "gelu"
    """A name in `ACTIVATIONS`."""
    projector_bias: bool = True
    """Whether the adapter's projections have biases."""
    image_grid_pinpoints: tuple[tuple[Side, Side], ...] = ()
    """Height and width of the canvases whose tiles are encoded beside the whole image; none: only the whole is."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames of a random request, pixels; others are taken too."""
        side = self.vision.image_size
        return (side * 3 // 2, side) if self.image_grid_pinpoints else (side, side)

    @property
    def encoder_layers(self) -> int:
        """Encoder layers that run: those up to `vision_feature_layer`."""
        states = self.vision.num_hidden_layers + 1
        return self.vision_feature_layer % states

    class_tokens: ClassVar[int] = 1
    """Tokens that the encoder puts in front of the patches."""
    frames_a_patch: ClassVar[int] = 1
    """Frames that one patch spans."""
    patches_a_token: ClassVar[int] = 1
    """Patches that the adapter makes one vision token of."""

    @property
    def placeholders(self) -> tuple[int, ...]:
        """Tokens that a request may mark its frames with; the first is the usual one."""
        return (self.image_token_id,)


@dataclass(frozen=True, kw_only=True)
class NativeVisionConfig(Shapes):
    """A vision transformer at native resolution, after which neighbours are merged: Qwen2.5-VL's and Qwen3-VL's."""

    patch_size: Side
    """Side of a patch, pixels."""
    temporal_patch_size: Width = 2
    """Frames of a temporal patch; a still is repeated to fill one."""
    spatial_merge_size: Width = 2
    """Side of the square of patches that become one token."""
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Depth
    num_attention_heads: Width = 16
    hidden_act: str
    """A name in `ACTIVATIONS`."""
    norm_eps: Positive = 1e-6
    rope_theta: Positive = 10_000.0
    frame_size: tuple[Side, Side]
    """Height and width of the frames of a random request, pixels; the tower takes others too."""

    @property
    def patches(self) -> int:
        """Patches of a frame of that size."""
        return self.frame_size[0] // self.patch_size * (self.frame_size[1] // self.patch_size)

    @property
    def factor(self) -> int:
        """Side of the square of pixels that becomes one token."""
        return self.patch_size * self.spatial_merge_size


@dataclass(frozen=True, kw_only=True)
class WindowVisionConfig(NativeVisionConfig):
    """Qwen2.5-VL's vision transformer: attention inside windows in most layers."""

    patch_size: Side = 14
    hidden_size: Width = 1280
    intermediate_size: Width = 3420
    num_hidden_layers: Depth = 32
    hidden_act: str = "silu"
    frame_size: tuple[Side, Side] = (336, 448)
    window_size: Side = 112
    """Side of an attention window, pixels."""
    full_attention_layers: tuple[Index, ...] = (7, 15, 23, 31)
    """Layers whose patches attend to all of their temporal patch."""


@dataclass(frozen=True, kw_only=True)
class DeepStackVisionConfig(NativeVisionConfig):
    """Qwen3-VL's vision transformer: learned positions besides rotary ones, features taken from several layers."""

    patch_size: Side = 16
    hidden_size: Width = 1152
    intermediate_size: Width = 4304
    num_hidden_layers: Depth = 27
    hidden_act: str = "gelu_pytorch_tanh"
    frame_size: tuple[Side, Side] = (320, 448)
    num_position_embeddings: Width = 2304
    """Learned positions: those of a square, interpolated to the grid of a picture."""
    deepstack_layers: tuple[Index, ...] = (8, 16, 24)
    """Vision layers whose output is merged and added after the first, second, … LLM layer."""

    @property
    def position_side(self) -> int:
        """Side of the square of learned positions."""
        return math.isqrt(self.num_position_embeddings)


@dataclass(frozen=True, kw_only=True)
class NativeLVLMConfig(Shapes):
    """An LVLM at native resolution: what the dialects of Qwen2.5-VL and Qwen3-VL share."""

    vision: NativeVisionConfig
    text: TextConfig
    image_token_id: Index = 151_655
    """Placeholder of stills, one for each."""
    video_token_id: Index = 151_656
    """Placeholder of a video's frames, one for each."""
    eos_token_ids: tuple[Index, ...] = ()
    """Tokens that end the answer; none means that only the limit ends it."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames of a random request, pixels; others are taken too."""
        return self.vision.frame_size

    @property
    def encoder_layers(self) -> int:
        """Encoder layers that run: all."""
        return self.vision.num_hidden_layers

    class_tokens: ClassVar[int] = 0
    """Tokens that the encoder puts in front of the patches."""

    @property
    def frames_a_patch(self) -> int:
        """Frames that one patch spans."""
        return self.vision.temporal_patch_size

    @property
    def patches_a_token(self) -> int:
        """Patches that the adapter makes one vision token of."""
        return self.vision.spatial_merge_size**2

    @property
    def placeholders(self) -> tuple[int, ...]:
        """Tokens that a request may mark its frames with; the first is the usual one: frames are a video's."""
        return (self.video_token_id, self.image_token_id)


@dataclass(frozen=True, kw_only=True)
class WindowLVLMConfig(NativeLVLMConfig):
    """An LVLM in the Qwen2.5-VL dialect."""

    vision: WindowVisionConfig
    tokens_per_second: Width = 2
    """Temporal position ids of a second of video."""


@dataclass(frozen=True, kw_only=True)
class DeepStackLVLMConfig(NativeLVLMConfig):
    """An LVLM in the Qwen3-VL dialect."""

    vision: DeepStackVisionConfig
    vision_start_token_id: Index = 151_652
    """Stands before each temporal patch of a video, behind the text of its time."""
    vision_end_token_id: Index = 151_653
    """Stands behind it."""


Config = LVLMConfig | WindowLVLMConfig | DeepStackLVLMConfig
"""A configuration in one of the dialects."""
