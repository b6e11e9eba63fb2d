"""A vision-language model: the shapes of its parts, and how many tokens its images and videos become."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lvlm_atlas.limits import MOST_COUNT
from lvlm_atlas.schema.llm import Llm
from lvlm_atlas.schema.numbers import Count, Depth, Layers, Pair, Positive, Side, Width
from lvlm_atlas.schema.record import Id, Record, Ref, Text
from lvlm_atlas.schema.sourced import Sourced

Argument = bool | int | float | str | tuple[Pair, ...] | tuple[int, ...]
"""A keyword argument of a token rule."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""A name in Python."""


_HUB_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
HubId = Annotated[str, Field(pattern=rf"^{_HUB_NAME}/{_HUB_NAME}$")]
"""A repository on the Hugging Face hub: its owner and its name."""


class Window(Record):
    """Window attention of an encoder."""

    patches: Pair
    """Patches of a whole window, rows and columns; windows at the edge are smaller."""
    full_attention_layers: Layers
    """The layers that attend to the whole sequence."""


class Convolution(Record):
    """A convolution over the patch grid, without bias."""

    kernel: Count
    """Side of its kernel in patches."""
    stride: Count = 1
    """Patches from one output to the next, along a side."""
    into: Width
    """Channels that it reads."""
    out: Width
    """Channels that it writes."""


class Front(Record):
    """A smaller encoder on square images, whose convolutions hand fewer patches on to the main one."""

    layers: Depth
    """Layers."""
    hidden: Width
    """Width of the hidden states."""
    mlp: Width
    """Width of the MLP."""
    heads: Width
    """Attention heads, which share the hidden width."""
    patch_size: Count
    """Side of a patch in pixels."""
    window: Count
    """Patches along a side of a window; those at the edge are padded."""
    full_attention_layers: Layers
    """The layers that attend to the whole image."""
    convolutions: tuple[Convolution, ...] = Field(min_length=1)
    """What follows its layers, in order."""


class Vision(Sourced):
    """The vision encoder."""

    name: Text
    """Its name."""
    layers: Depth
    """Layers that the released code runs."""
    layers_needed: Depth
    """Layers up to the one whose features are used."""
    hidden: Width
    """Width of the hidden states."""
    mlp: Width
    """Width of the MLP."""
    gated_mlp: bool
    """Whether the MLP has a gate, so three matrices."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]
    """Activation of the MLP."""
    heads: Width
    """Attention heads."""
    head_dim: Width
    """Width of a head."""
    norm: Literal["layernorm", "rmsnorm"]
    """Kind of the norms."""
    patch_size: Count
    """Side of a patch in pixels."""
    temporal_patch_size: Count = 1
    """Frames that share a patch."""
    image_size: Count | None = None
    """Side of an input tile in pixels; absent: the image's own size."""
    cls_token: bool
    """Whether each sequence carries a class token."""
    position: Text
    """How positions are told."""
    attention: Text
    """Who attends to whom, in words."""
    front: Front | None = None
    """A smaller encoder that makes the patches of this one; absent: a linear layer makes them from pixels."""
    window: Window | None = None
    """Window attention; absent: every layer attends to the whole sequence."""
    deepstack_layers: Layers = ()
    """Layers whose outputs enter the LLM through adapters of their own."""


class Adapter(Sourced):
    """What maps patches to the width of the LLM."""

    type: Text
    """Its kind."""
    widths: Annotated[tuple[Count, ...], Field(min_length=2)]
    """Input width, hidden widths, output width of its chain of linear layers; of a resampler: encoder width, LLM
    width."""
    gated: bool = False
    """Whether the last hidden width has a gate, so a matrix more."""
    pools_by_attention: bool = False
    """Whether the first step is attention, to its second width: the mean of the patches that become a token attends to
    them."""
    copies: Count = 1
    """How many chains of these shapes run on the same rows: the main one and those of deepstack."""
    merge: Count | None = None
    """Patches that become one token; absent for a resampler, whose number of tokens is fixed."""
    queries: int = Field(default=0, ge=0, le=MOST_COUNT)
    """Learned queries of a resampler, a sequence; 0: no resampler."""
    heads: int = Field(default=0, ge=0, le=MOST_COUNT)
    """Heads of a resampler's cross-attention."""
    steps: Text
    """What it does, step by step."""


class Injection(Record):
    """How vision tokens reach the language model."""

    type: Literal["concat", "concat-deepstack", "cross-attention"]
    """In the sequence, in the sequence and added to early layers, or through layers of their own."""
    where: Text
    """Where they stand, and in which order."""
    verified: Annotated[Id, Ref("verification")]
    """Against what this was checked."""


class Parameters(Sourced):
    """Numbers of parameters, counted from the shapes."""

    vision: Count
    """The encoder's, unused layers included."""
    adapter: Count
    """The adapter's, all copies."""
    llm: Count
    """The language model's, embeddings included."""
    total: Count
    """All of them."""
    llm_active: Count | None = None
    """Those of the language model that one token uses, where experts are chosen; input and output matrix included."""
    cross_check: Text | None = None
    """A published or traced total to compare with."""


class Rule(Record):
    """A rule of the engine and its constants."""

    rule: Name
    """Name of the function in `lvlm_atlas.roofline.tokens`."""
    params: dict[Name, Argument] = Field(default_factory=dict)
    """Its keyword arguments."""
    notes: Text | None = None
    """What a reader should know besides."""


class Sampling(Record):
    """How many frames of a video are read."""

    min_frames: Count = 1
    """Least, as long as the file holds so many."""
    max_frames: Count
    """Most; a family that reads a fixed number has it as both limits."""
    multiple: Count = 1
    """The number is rounded down to a multiple of this."""

    @model_validator(mode="after")
    def _has_room(self) -> Sampling:
        if self.min_frames > self.max_frames:
            raise ValueError(f"reads {self.min_frames} frames at least and {self.max_frames} at most")
        return self


class VideoRule(Rule):
    """A rule for videos."""

    sampling: Sampling
    """How many frames are read."""


class Markers(Record):
    """Text tokens that stand around visual ones; a request counts them as text."""

    image: int = Field(default=0, ge=0, le=MOST_COUNT)
    """Of each image."""
    view: int = Field(default=0, ge=0, le=MOST_COUNT)
    """Of each view of it, where views are marked."""
    notes: Text | None = None
    """Which they are."""


class Clip(Record):
    """A video after sampling."""

    width: Side
    """Pixels."""
    height: Side
    """Pixels."""
    frames: Count
    """Frames that the model looks at."""


class TokenExample(Record):
    """What an image or a video becomes, as a source prints it or its code computes it; the rule must give the same."""

    image: Pair | None = None
    """Width and height in pixels."""
    video: Clip | None = None
    """The frames, where it is a video."""
    by: Name | None = None
    """Whose rule reads the video, of `video_by`; absent: the model's own."""
    params: dict[Name, Argument] = Field(default_factory=dict)
    """Arguments of the rule that differ from the model's."""
    vit_tokens: Count
    """Tokens that the encoder processes, class tokens included."""
    window_pairs: Count | None = None
    """Query-key pairs of one layer that attends in windows."""
    llm_tokens: int = Field(ge=0, le=MOST_COUNT)
    """Visual positions in the language model's sequence, learned separators included, text markers not."""
    cross_tokens: int = Field(default=0, ge=0, le=MOST_COUNT)
    """Vision tokens that cross-attention layers read."""
    notes: Text | None = None
    """How the numbers come about."""

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> TokenExample:
        if (self.image is None) == (self.video is None):
            raise ValueError("needs either `image` or `video`")
        return self


class Tokens(Sourced):
    """How many tokens images and videos become."""

    image: Rule
    """The rule for images."""
    video: VideoRule | None = None
    """The rule for videos; absent: the model takes none."""
    video_by: dict[Name, VideoRule] = Field(default_factory=dict)
    """Rules of other software that reads videos in another way, by a name that requests choose it with."""
    formula: Text
    """The rule for images, for readers."""
    extra_tokens: Markers = Field(default_factory=Markers)
    """Text markers around them."""
    pitfalls: tuple[Text, ...] = ()
    """Known ways to get the number wrong."""
    examples: tuple[TokenExample, ...] = Field(min_length=1)
    """Worked examples, which the rules must reproduce."""
    cross_check: Text | None = None
    """What others measured or print."""


class Traced(Sourced):
    """A run of the real checkpoint in which somebody counted tokens and multiply-accumulates, module by module."""

    image: Pair
    """Width and height in pixels."""
    params: dict[Name, Argument] = Field(default_factory=dict)
    """Arguments of the token rule that differ from the model's."""
    total_params: Positive
    """Parameters of the checkpoint, as printed."""
    vision_params: Positive
    """Parameters of the encoder, as printed."""
    vit_tokens: Count
    """Tokens that the encoder processed."""
    adapter_tokens: Count | None = None
    """Rows that the adapter wrote."""
    llm_sequence: Count
    """Tokens in the language model's sequence, text included."""
    vision_mac: Positive | None = None
    """Multiply-accumulates of the encoder's linear and convolutional layers."""
    adapter_mac: Positive | None = None
    """Those of the adapter."""
    llm_mac: Positive | None = None
    """Those of the language model in prefill."""
    vision_includes_adapter: bool = False
    """Whether the encoder's numbers hold the adapter's."""
    llm_includes_head: bool = False
    """Whether the language model's hold the output matrix, at every position."""


class Model(Record):
    """One vision-language model."""

    id: Id
    """Permanent id, equal to the file's name."""
    name: Text
    """Its name."""
    aliases: tuple[Text, ...] = ()
    """Other names and spellings."""
    hf_id: HubId
    """Its repository on the Hugging Face hub."""
    year: Annotated[int, Field(ge=2017, le=2100)]
    """Year of release."""
    dtype: Literal["fp16", "bf16"]
    """Type of the released weights, or of those that are not quantised."""
    weight_dtype: Text | None = None
    """Types of the weights of a quantised checkpoint, as `--weight-dtype` takes them; absent: all are `dtype`."""
    vision: Vision
    """The vision encoder."""
    adapter: Adapter
    """What maps patches to the width of the LLM."""
    llm: Llm
    """The language model."""
    injection: Injection
    """How vision tokens reach the language model."""
    params: Parameters
    """Numbers of parameters."""
    tokens: Tokens
    """How many tokens images and videos become."""
    traced: Traced | None = None
    """A run of the real checkpoint in which somebody counted."""
    reported: Text | None = None
    """Speeds that the authors print, with their setting."""
