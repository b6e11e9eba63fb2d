"""PACT: irrelevant vision tokens go, the others are clustered within a bounded distance, and a cluster counts as many.

Paper: dhouib2025pact; code: orailix/PACT, transformers/models/qwen2/modeling_qwen2.py and transformers/PACT/utils.py
(`DBDPC`, `merge_clusters`).

Symbols: `pruning_tokeep_percentage_value` → `keep_ratio`, `coef_pruned` → `recovery`, d_c (`dc`) → `bandwidth`.

Departs:
1. Queries and keys are those that the layer about to run projects, turned back for relevance; the code projects anew.
2. Centres are searched in rounds to the end; with fewer than ten new ones in a round the code goes on token by token,
   which gives the same. Of equally dense tokens the later is denser, of equally near centres the earlier is taken.
3. DeepStack features of layers still to come are averaged as the hidden states are; the code knows no such models.
4. `layer` is 1 at least, since what enters the LLM is counted before; the code allows 0.
5. All vision tokens of the request are one set, and a batch holds one request.

N tokens, V vision tokens, K kept ones, C centres, H heads, d head dimension, E = G · d,
D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.ops.attention import Rotary, share_heads
from lvlm_atlas.reference.ops.clustering import bounded_peaks
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


def relevance(query_HNd: Tensor, key_HNd: Tensor, x_ND: Tensor) -> Tensor:
    """Score (N,) of each token: softmax of the mean query over all keys, mean over heads, times the token's length.

    Args:
        query_HNd: unrotated, of all tokens up to the last vision token.
        key_HNd: unrotated, of the same tokens, for every query head.
        x_ND: their hidden states.
    """
    mean_H1d = query_HNd.float().mean(dim=1, keepdim=True)
    logit_HN = (mean_H1d @ key_HNd.float().mT)[:, 0] * query_HNd.shape[2] ** -0.5
    score_N: Tensor = logit_HN.softmax(dim=-1).mean(dim=0) * x_ND.float().norm(dim=-1)
    return score_N


def clusters(key_VE: Tensor, kept_K: Tensor, cutoff: float, recovery: float, bandwidth: float) -> tuple[Tensor, Tensor]:
    """The centres (C,), ascending, and for each vision token the number of its centre (V,), −1 where it has none.

    Args:
        key_VE: rotated keys of the vision tokens, all heads in one vector.
        kept_K: places of those that are relevant; the centres are among them.
        cutoff: greatest cosine distance of a kept token from its nearest centre.
        recovery: multiple of it up to which a token joins.
        bandwidth: of the density.
    """
    unit_VE = unit(key_VE.float())
    unit_KE = unit_VE[kept_K]
    distance_KK = (1 - unit_KE @ unit_KE.mT).clamp(min=0).fill_diagonal_(0)
    density_K = (-((distance_KK / bandwidth) ** 2)).exp().sum(dim=1)
    centre_C = kept_K[bounded_peaks(distance_KK, density_K, cutoff)]
    nearest_V, group_V = (1 - unit_VE @ unit_VE[centre_C].mT).min(dim=1)
    group_V = group_V.masked_fill(nearest_V > cutoff * recovery, -1)
    # Rounding must not take a kept token away, nor a centre from itself.
    own_KC = distance_KK[:, torch.searchsorted(kept_K, centre_C)]
    return centre_C, group_V.scatter(0, kept_K, own_KC.argmin(dim=1))


def means(x_VD: Tensor, group_V: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (C, D) and size (C,), float32, of each cluster; tokens of group −1 belong to none."""
    member_VC = torch.nn.functional.one_hot(group_V + 1, count + 1)[:, 1:].to(torch.float32)
    size_C = member_VC.sum(dim=0)
    return ((member_VC.mT @ x_VD.float()) / size_C[:, None]).to(x_VD.dtype), size_C


@dataclass(frozen=True)
class Pact(Technique):
    """Reduces once, before layer `layer`; centres keep their position ids.

    Raises:
        ValueError: an argument lies outside its range.
    """

    layer: int = 4
    keep_ratio: float = 0.55
    cutoff: float = 0.21
    recovery: float = 1.5
    bandwidth: float = 2.0

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames", "frames-apart", "whole-grid", "block-sparse-kernel")
    """Kernels that skip blocks take no bias for each key."""

    def __post_init__(self) -> None:
        self.expect_at_least(1, "layer")
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], got {self.keep_ratio}")
        if not 0 <= self.cutoff <= 2:
            raise ValueError(f"cutoff must lie in [0, 2], got {self.cutoff}")
        self.expect_at_least(1, "recovery")
        if not self.bandwidth > 0:
            raise ValueError(f"bandwidth must be above 0, got {self.bandwidth}")

    def begin(self, run: Run) -> Reducing:
        """What acts in a run.

        Raises:
            Refusal: the LLM has no layer of that index, or another technique may drop tokens between its layers.
        """
        expect_alone(run, self, "PACT gives tokens a weight that others would drop")
        text = run.config.text
        if self.layer >= text.num_hidden_layers:
            last = text.num_hidden_layers - 1
            raise Refusal(f"layer must be in 1..{last} for an LLM of {last + 1} layers, got {self.layer}")
        return Reducing(self, Rotary(text.rope_theta, text.rope_sections, text.rope_interleaved))


@dataclass(frozen=True)
class Reducing:
    """PACT with the rotary embedding of the model."""

    setting: Pact
    rotary: Rotary

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, vision tokens in clusters from layer `layer` on, with the log of their sizes as a bias."""
        setting, sequence = self.setting, at.sequence
        place_V = sequence.vision_places()[0]
        if at.layer != setting.layer or not len(place_V):
            return sequence
        probe = at.ahead()
        query, key = probe.query_BHNd, probe.key_BGNd[:, :, probe.cached :]
        end = int(place_V[-1]) + 1
        plain_query, plain_key = (self.rotary(each, -sequence.position_BN)[:, :, :end] for each in (query, key))
        plain_key = share_heads(plain_key, query.shape[1])
        score_V = relevance(plain_query[0], plain_key[0], sequence.hidden_BND[0, :end])[place_V]
        kept_K = top_places(score_V, int(len(place_V) * setting.keep_ratio))
        if not len(kept_K):
            return sequence.keep_vision(kept_K[None])
        key_VE = key[0, :, place_V].transpose(0, 1).flatten(1)
        centre_C, group_V = clusters(key_VE, kept_K, setting.cutoff, setting.recovery, setting.bandwidth)

        def merge(x: Tensor) -> tuple[Tensor, Tensor]:
            mean_CD, size_C = means(x[0, place_V].flatten(1), group_V, len(centre_C))
            mean = mean_CD.reshape(len(centre_C), *x.shape[2:])
            return x.index_copy(1, place_V[centre_C], mean[None]), size_C

        hidden_BND, size_C = merge(sequence.hidden_BND)
        bias_BN = torch.zeros_like(sequence.position_BN.reshape(1, sequence.length, -1)[..., 0], dtype=torch.float32)
        return replace(
            sequence,
            hidden_BND=hidden_BND,
            deepstack_BNLD=None if sequence.deepstack_BNLD is None else merge(sequence.deepstack_BNLD)[0],
            bias_BN=bias_BN.index_copy(1, place_V[centre_C], size_C.log()[None]),
        ).keep_vision(centre_C[None])
