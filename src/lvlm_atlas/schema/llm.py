"""The language model of a vision-language model: its shapes, and the layers that differ from the others."""

from __future__ import annotations

from pydantic import Field, model_validator

from lvlm_atlas.limits import MOST_LAYER, MOST_WIDTH
from lvlm_atlas.schema.numbers import Count, Depth, Layers, Width
from lvlm_atlas.schema.record import Record, Text
from lvlm_atlas.schema.sourced import Sourced


class Experts(Record):
    """A mixture of experts in place of the dense MLP."""

    routed: Width
    """Experts to choose from."""
    top_k: Width
    """Experts that a token uses."""
    shared: int = Field(ge=0, le=MOST_WIDTH)
    """Experts that every token uses on top."""
    intermediate: Width
    """Width of one expert's MLP."""
    dense_layers: int = Field(ge=0, le=MOST_LAYER)
    """Leading layers that keep a dense MLP."""
    step: Count = 1
    """One layer in so many has experts, the last of each group; the others keep a dense MLP."""


class LatentAttention(Record):
    """Multi-head latent attention: the cache holds one latent and one rotary key a token, for all heads."""

    kv_lora_rank: Width
    """Width of the latent."""
    rope_dim: Width
    """Width of the rotary key, shared by the heads."""
    nope_dim: Width
    """Width of a head's query and key without position."""
    v_dim: Width
    """Width of a head's value."""
    q_lora_rank: Count | None = None
    """Width of the query's latent; absent: queries are projected directly."""


class GlobalAttention(Record):
    """Heads of the layers that attend to everything, where they differ from those of the local ones."""

    kv_heads: Width
    """Key-value heads; there are as many query heads as in the others."""
    head_dim: Width
    """Width of a head."""
    shared_projection: bool = False
    """Whether keys and values come from one projection; both are kept."""


class LinearAttention(Record):
    """Layers of gated delta attention: a state of constant size in place of a cache."""

    key_heads: Width
    """Heads of queries and keys."""
    value_heads: Width
    """Heads of values; each has a state."""
    key_dim: Width
    """Width of a head of queries and keys."""
    value_dim: Width
    """Width of a head of values."""
    conv: Count
    """Tokens that the convolution before it sees."""
    state_byte: Count = 4
    """Bytes of a number of the state; released configurations keep it in 32 bits."""
    full_attention_layers: Layers
    """The layers with softmax attention and a cache; all others are linear."""


class SharedCache(Record):
    """Last layers that keep no keys and values: they attend to those of the last layer before them of their kind."""

    layers: Count
    """How many of the last layers."""
    intermediate: Width | None = None
    """Width of the gated MLP of these layers; absent: that of the others."""


class LayerInputs(Record):
    """An input that every layer gets beside the hidden states: an embedding of the token, with what is projected from
    the hidden states before the first layer. A gate of the layer's own scales it before it is projected back.
    """

    width: Width
    """Width of the input of one layer."""
    vocab: Width
    """Rows of the table of embeddings; a row holds the inputs of all layers."""


class SlidingWindow(Record):
    """Layers that look back only so far."""

    tokens: Count
    """Width of the window."""
    global_layers: Layers
    """The layers that attend to everything; all others are local."""


class Llm(Sourced):
    """The language model."""

    name: Text
    """Its name."""
    layers: Depth
    """Transformer layers, cross-attention layers included."""
    hidden: Width
    """Width of the hidden states."""
    intermediate: Width
    """Width of the gated MLP of a dense layer."""
    heads: Width
    """Query heads."""
    kv_heads: Width
    """Key-value heads."""
    head_dim: Width
    """Width of a head; heads times it need not be the hidden width."""
    vocab: Width
    """Rows of the output matrix."""
    tied_embeddings: bool
    """Whether input and output matrix are one."""
    qkv_bias: bool
    """Whether the projections of queries, keys and values have biases."""
    qk_norm: bool
    """Whether queries and keys are normalised."""
    rope: Text | None = None
    """What is special about its rotary positions."""
    position_axes: Count = 1
    """Axes of a token's position id: 3 with M-RoPE."""
    context: Count | None = None
    """Tokens of prompt and answer together that the released configuration is for; absent: not looked up."""
    experts: Experts | None = None
    """The mixture of experts; absent: dense."""
    mla: LatentAttention | None = None
    """Multi-head latent attention; absent: keys and values are cached per head."""
    sliding_window: SlidingWindow | None = None
    """Local layers; absent: every layer attends to everything before."""
    global_attention: GlobalAttention | None = None
    """Heads of the layers without a window; absent: those of all layers."""
    linear_attention: LinearAttention | None = None
    """Layers with a state of constant size; absent: every layer has a cache."""
    shared_cache: SharedCache | None = None
    """Last layers without a cache of their own; absent: none."""
    layer_inputs: LayerInputs | None = None
    """What each layer gets beside the hidden states; absent: nothing."""
    output_gate: bool = False
    """Whether queries are projected together with a gate of the attention's output, which makes the matrix twice as
    wide."""
    cross_attention_layers: Layers = ()
    """The layers that attend to the vision tokens instead of to the sequence."""

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> Llm:
        if self.heads % self.kv_heads:
            raise ValueError(f"has {self.heads} heads, which {self.kv_heads} key-value heads cannot share evenly")
        return self

    @model_validator(mode="after")
    def _some_layer_has_a_cache(self) -> Llm:
        if self.shared_cache and self.shared_cache.layers >= self.layers:
            raise ValueError(f"has {self.layers} layers, of which {self.shared_cache.layers} cannot use others' caches")
        return self
