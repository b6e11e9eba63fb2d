"""Multi-head latent attention (MLA): the cache holds one latent a token, from which all heads get keys and values.

Paper: deepseek2024v2, sec. 2.1. Code: huggingface/transformers, models/deepseek_v3/modeling_deepseek_v3.py.

Symbols: d_c, `kv_lora_rank` → `rank`; d'_c, `q_lora_rank` → `query_rank`; d_h^R, `qk_rope_head_dim` → `rope`;
`qk_nope_head_dim` → `nope`; `v_head_dim` → `value`.

Departs:
1. The weights are random, or given; a model trained for softmax over keys and values of its own is not converted.
2. Prefill, too, forms no key or value of a head: the up-projections are moved into queries and outputs, as the paper
   does for decoding. Results are the same; kernels for long prompts form them, since that takes fewer operations there.
3. Frequencies are those of the model's base, without the scaling of long contexts.

B batch, H heads, N tokens, r rank, p channels with position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

from torch import nn

from lvlm_atlas.reference.caches.latent import LatentStore
from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.lvlm.contexts import CacheBits, Projections
from lvlm_atlas.reference.lvlm.decoder import Projecting
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.modules.latent import LatentProjections
from lvlm_atlas.reference.refusal import Refusal


@dataclass(frozen=True)
class MultiHeadLatentAttention(Technique):
    """The projections of every layer, and the store of its latents.

    Raises:
        ValueError: an argument lies outside its range.
    """

    rank: int = 512
    rope: int = 64
    nope: int = 128
    value: int = 128
    query_rank: int = 0
    """0: queries are projected directly."""

    acts_at: ClassVar = ("projections", "cache-bits")
    needs: ClassVar = ("one-position-axis", "training-data")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "rank", "nope", "value")
        self.expect_at_least(2, "rope")
        self.expect_at_least(0, "query_rank")

    def begin(self, run: Run) -> Latents:
        """What acts in a run.

        Raises:
            Refusal: `rope` is odd.
        """
        if self.rope % 2:
            raise Refusal(f"rope must be even, for channels turn in pairs, got {self.rope}")
        text = run.config.text
        build = partial(
            LatentProjections, text.hidden_size, text.num_attention_heads, nope=self.nope, rope=self.rope,
            value=self.value, rank=self.rank, query_rank=self.query_rank, theta=text.rope_theta, eps=text.rms_norm_eps,
        )  # fmt: skip
        return Latents(self.rank, module_of(run, self, lambda: every_layer(build, text.num_hidden_layers)))


def every_layer(build: Callable[[], LatentProjections], layers: int) -> nn.ModuleList:
    """Projections of their own for each layer."""
    return nn.ModuleList(build() for _ in range(layers))


@dataclass(frozen=True)
class Latents:
    """The projections of each layer."""

    rank: int
    projections: nn.ModuleList

    def exchange_projections(self, at: Projections) -> Projecting:
        """Those to latents."""
        return cast("LatentProjections", self.projections[at.layer])

    def new_store(self, at: CacheBits) -> Store:  # noqa: ARG002 - alike in all layers
        """A store of latents."""
        return LatentStore(self.rank)
