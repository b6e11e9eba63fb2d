"""The language model: a decoder of Llama's kind, parameter names as in published checkpoints.

B batch, N prompt tokens, M tokens of a step, S cached entries, H heads, G key-value heads, d head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.activation import ACTIVATIONS
from lvlm_atlas.reference.lvlm.config import TextConfig
from lvlm_atlas.reference.ops.attention import Rotary, turn


class RmsNorm(nn.Module):
    """x / rms(x) · weight, the mean taken in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


class Projecting(Protocol):
    """From what enters a layer's attention, under its norm, to queries, keys and values, and back.

    What a technique puts in place of a layer's own. The number of key-value heads and the widths are up to it;
    attention divides logits by the root of the width of its queries.
    """

    def query_key(self, x_BND: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries (B, H, N, d) and keys (B, G, N, d), rotated if there are positions."""

    def value(self, x_BND: Tensor, key_BGNd: Tensor) -> Tensor:
        """Values (B, G, N, v), perhaps of the keys of the same tokens."""

    def output(self, attended_BHNv: Tensor) -> Tensor:
        """What attention gave, as it is added to the states (B, N, D)."""


class Reading(Projecting, Protocol):
    """Those of a technique whose sequence has tokens that ask nothing (`Sequence.silent`)."""

    def read_alone(self, x_BVD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, V, d) of such tokens, from their states, which no norm has seen."""


class Attention(nn.Module):
    """Projections and rotary embedding; who attends to what is decided outside."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        heads, groups, d = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.head_dim = d
        self.rotary = Rotary(config.rope_theta, config.rope_sections, config.rope_interleaved)
        self.q_proj = nn.Linear(config.hidden_size, heads * d, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, groups * d, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, groups * d, bias=config.qkv_bias)
        self.o_proj = nn.Linear(heads * d, config.hidden_size, bias=config.output_bias)
        self.q_norm = RmsNorm(d, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RmsNorm(d, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def project(self, x_BND: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, N, d), keys and values (B, G, N, d); without positions queries and keys are not rotated."""
        return *self.query_key(x_BND, position_BN), self.value(x_BND)

    def query_key(self, x_BND: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries (B, H, N, d) and keys (B, G, N, d), rotated if there are positions."""
        q, k = self.q_norm(self._heads(self.q_proj(x_BND))), self.k_norm(self._heads(self.k_proj(x_BND)))
        if position_BN is None:
            return q, k
        angle_BNf = self.rotary.angles(position_BN, self.head_dim, x_BND.device)
        return turn(q, angle_BNf), turn(k, angle_BNf)

    def value(self, x_BND: Tensor) -> Tensor:
        """Values (B, G, N, d)."""
        return self._heads(self.v_proj(x_BND))

    def output(self, attended_BHNd: Tensor) -> Tensor:
        """What attention gave, projected to the width of the states (B, N, D)."""
        out: Tensor = self.o_proj(attended_BHNd.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, heads · d) → (B, heads, N, d)."""
        return x.reshape(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class Mlp(nn.Module):
    """Gated: down(act(gate(x)) · up(x)); SwiGLU where act is silu."""

    def __init__(self, width: int, inner: int, act: str, *, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)
        self.act = ACTIVATIONS[act]

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        out: Tensor = self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Pre-norm decoder layer; attention is split in two so that its caller decides how to attend."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config.hidden_size, config.intermediate_size, config.hidden_act, bias=config.mlp_bias)
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def project(self, x_BND: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the layer; queries and keys not yet rotated without positions."""
        return self.self_attn.project(self.input_layernorm(x_BND), position_BN)

    def value(self, normed_BND: Tensor, key_BGNd: Tensor) -> Tensor:  # noqa: ARG002 - others make them of keys
        """Values of what the norm gave, (B, G, N, d)."""
        return self.self_attn.value(normed_BND)

    @property
    def rotary(self) -> Rotary:
        """How positions turn its queries and keys."""
        return self.self_attn.rotary

    def finish(self, x_BND: Tensor, attended_BHNd: Tensor) -> Tensor:
        """The layer's output from its input and what attention gave."""
        return self.added(x_BND, self.self_attn.output(attended_BHNd))

    def added(self, x_BND: Tensor, out_BND: Tensor) -> Tensor:
        """The layer's output from its input and what is to be added for attention."""
        x_BND = x_BND + out_BND
        out: Tensor = x_BND + self.mlp(self.post_attention_layernorm(x_BND))
        return out


@dataclass(frozen=True)
class Exchanged:
    """A layer in which other projections take the place of its own; copies of a session share it, as the model."""

    layer: Layer
    self_attn: Projecting

    def __deepcopy__(self, memo: object) -> Exchanged:
        return self

    def input_layernorm(self, x_BND: Tensor) -> Tensor:
        """What the projections get."""
        out: Tensor = self.layer.input_layernorm(x_BND)
        return out

    def project(self, x_BND: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """See `Layer`."""
        normed_BND = self.input_layernorm(x_BND)
        query, key = self.self_attn.query_key(normed_BND, position_BN)
        return query, key, self.value(normed_BND, key)

    def value(self, normed_BND: Tensor, key_BGNd: Tensor) -> Tensor:
        """See `Layer`."""
        return self.self_attn.value(normed_BND, key_BGNd)

    def read_alone(self, x_BVD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, V, d) of tokens that ask nothing."""
        return cast("Reading", self.self_attn).read_alone(x_BVD)

    @property
    def rotary(self) -> Rotary:
        """How positions turn the queries and keys of the layer's own projections."""
        return self.layer.rotary

    def finish(self, x_BND: Tensor, attended_BHNv: Tensor) -> Tensor:
        """See `Layer`."""
        return self.layer.added(x_BND, self.self_attn.output(attended_BHNv))


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class LanguageModel(nn.Module):
    """The decoder with its head."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tied = config.tie_word_embeddings
        self.tie()

    def tie(self) -> None:
        """Make the head the embedding's own tensor, where the configuration says so."""
        if self.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def layers(self) -> Iterator[Layer]:
        """The decoder layers."""
        return (layer for layer in self.model.layers if isinstance(layer, Layer))

    def logits(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) → (B, N, C), float32."""
        out: Tensor = self.lm_head(self.model.norm(x_BND))
        return out.float()
