"""What the engine must know of a model: shapes, not weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """A convolution over the patch grid."""

    kernel: int
    """Side of its kernel in patches."""
    stride: int
    """Patches from one output to the next, along a side."""
    into: int
    """Channels that it reads."""
    out: int
    """Channels that it writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """A smaller encoder on square images, whose convolutions hand fewer patches on to the main one."""

    layers: int
    """Layers."""
    hidden: int
    """Width of the hidden states."""
    mlp: int
    """Width of the MLP."""
    heads: int
    """Attention heads, which share the hidden width."""
    patch_size: int
    """Side of a patch in pixels."""
    window: int
    """Patches along a side of a window; those at the edge are padded."""
    full_attention_layers: frozenset[int]
    """The layers that attend to the whole image."""
    convolutions: tuple[Convolution, ...]
    """What follows its layers, in order."""

    @property
    def stride(self) -> int:
        """Patches along a side that become one patch of the main encoder."""
        return math.prod(each.stride for each in self.convolutions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """The vision encoder."""

    layers: int
    """Layers that the released code runs."""
    layers_needed: int
    """Layers up to the one whose features are used; servers that do not load the rest run these."""
    hidden: int
    """Width of the hidden states."""
    mlp: int
    """Width of the MLP."""
    gated_mlp: bool
    """Whether the MLP has a gate, so three matrices."""
    heads: int
    """Attention heads."""
    head_dim: int
    """Width of a head."""
    patch_size: int
    """Side of a patch in pixels."""
    temporal_patch_size: int = 1
    """Frames that share a patch."""
    class_token: bool = False
    """Whether each sequence carries a class token."""
    front: Front | None = None
    """A smaller encoder that makes the patches of this one; None: a linear layer makes them from pixels."""
    full_attention_layers: frozenset[int] | None = None
    """The layers that attend to the whole sequence where the others attend in windows; None: all of them."""
    parameters: int
    """Parameters, unused layers included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What maps patches to the width of the LLM."""

    widths: tuple[int, ...]
    """Input width, hidden widths, output width of its chain of linear layers; of a resampler: encoder width, LLM
    width."""
    merge: int = 1
    """Neighbours of the patch grid that become one row; 1: rows are patches, whatever their order."""
    gated: bool = False
    """Whether the last hidden width has a gate, so a matrix more."""
    pools_by_attention: bool = False
    """Whether the first step is attention, to the second width: the mean of the patches that become a token attends to
    them."""
    copies: int = 1
    """How many chains of these shapes run on the same rows: the main one and those of deepstack."""
    queries: int = 0
    """Learned queries of a resampler, a sequence; 0: no resampler."""
    parameters: int
    """Parameters of all copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts in place of the dense MLP."""

    routed: int
    """Experts to choose from."""
    top_k: int
    """Experts that a token uses."""
    shared: int
    """Experts that every token uses on top."""
    intermediate: int
    """Width of one expert's MLP."""
    dense_layers: int
    """Leading layers that keep a dense MLP."""
    step: int = 1
    """One layer in so many has experts, the last of each group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention: the cache holds one latent and one rotary key a token, for all heads."""

    kv_lora_rank: int
    """Width of the latent."""
    rope_dim: int
    """Width of the rotary key, shared by the heads."""
    nope_dim: int
    """Width of a head's query and key without position."""
    v_dim: int
    """Width of a head's value."""
    q_lora_rank: int | None = None
    """Width of the query's latent; None: queries are projected directly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """The heads of a layer's attention."""

    kv_heads: int
    """Key-value heads."""
    head_dim: int
    """Width of a head."""
    projections: int = 2
    """Matrices that make keys and values: 1 where one makes both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """Layers of gated delta attention: a state of constant size in place of a cache."""

    key_heads: int
    """Heads of queries and keys."""
    value_heads: int
    """Heads of values; each has a state."""
    key_dim: int
    """Width of a head of queries and keys."""
    value_dim: int
    """Width of a head of values."""
    conv: int
    """Tokens that the convolution before it sees."""
    state_byte: int
    """Bytes of a number of the state."""
    layers: frozenset[int]
    """The layers."""

    @property
    def elements(self) -> int:
        """Numbers in the state of a layer."""
        return self.value_heads * self.key_dim * self.value_dim

    @property
    def channels(self) -> int:
        """Channels that the convolution runs over: queries, keys and values."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def inner(self) -> int:
        """Width of what is projected from the hidden states: those, a gate, and two numbers a head of values."""
        return self.channels + self.value_heads * (self.value_dim + 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Llm:
    """The language model."""

    layers: int
    """Transformer layers, cross-attention layers included."""
    hidden: int
    """Width of the hidden states."""
    intermediate: int
    """Width of the gated MLP of a dense layer."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key-value heads."""
    head_dim: int
    """Width of a head; heads times it need not be the hidden width."""
    vocab: int
    """Rows of the output matrix."""
    experts: Experts | None = None
    """The mixture of experts; None: dense."""
    latent: LatentAttention | None = None
    """Multi-head latent attention; None: keys and values are cached per head."""
    window: int | None = None
    """Width of the sliding window of the local layers, in tokens."""
    local_layers: frozenset[int] = frozenset()
    """The layers that attend in the sliding window."""
    cross_layers: frozenset[int] = frozenset()
    """The layers that attend to the vision tokens instead of to the sequence."""
    global_heads: Heads | None = None
    """Heads of the layers that are not local; None: those of all layers."""
    linear: LinearAttention | None = None
    """Layers with a state of constant size; None: every layer has a cache."""
    borrowing_layers: int = 0
    """Last layers that keep no keys and values, and attend to those of an earlier layer."""
    borrowing_intermediate: int | None = None
    """Width of the gated MLP of these; None: that of the others."""
    layer_input: int = 0
    """Width of the input that every layer gets beside the hidden states; 0: none."""
    layer_vocab: int = 0
    """Rows of the table that these inputs are looked up in."""
    output_gate: bool = False
    """Whether queries are projected together with a gate of the attention's output."""
    skipped_layers: int = 0
    """Layers that a request leaves out beside those, since it shows nothing that they could attend to."""
    position_axes: int = 1
    """Axes of a token's position id."""
    context: int | None = None
    """Tokens that the released configuration is for; None: unknown."""
    tied: bool = False
    """Whether the output matrix is that of the embeddings."""
    parameters: int
    """Parameters, embeddings included."""

    def heads_at(self, wide: bool) -> Heads:
        """The heads of a layer that is local, or that attends to everything and has heads of its own."""
        if wide and self.global_heads:
            return self.global_heads
        return Heads(kv_heads=self.kv_heads, head_dim=self.head_dim)

    def intermediate_at(self, borrows: bool) -> int:
        """Width of the dense MLP of a layer that has a cache of its own, or borrows that of another."""
        return self.borrowing_intermediate or self.intermediate if borrows else self.intermediate


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRule:
    """How images and videos become patches and tokens: a rule of `roofline.tokens` and its constants."""

    image: str
    """Name of the rule for images: a function of `roofline.tokens`."""
    image_params: Mapping[str, Any] = field(default_factory=dict)
    """Its keyword arguments."""
    video: str | None = None
    """Name of the rule for videos; None: the model has none."""
    video_params: Mapping[str, Any] = field(default_factory=dict)
    """Its keyword arguments."""
    video_by: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Rules of other software that reads videos, by its name, with their keyword arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A vision-language model."""

    id: str
    """Its id."""
    name: str
    """Its name."""
    dtype: str
    """Type of the released weights, or of those that are not quantised."""
    weight_dtype: str | None = None
    """Types of the released weights part by part, as `weights.given_types` reads them; None: all are `dtype`."""
    encoder: Encoder
    adapter: Adapter
    llm: Llm
    tokens: TokenRule

    @property
    def parameters(self) -> int:
        """Parameters of all parts."""
        return self.encoder.parameters + self.adapter.parameters + self.llm.parameters
