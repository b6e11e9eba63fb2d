"""ATP-LLaVA: small modules between LLM layers set, for each input anew, how much a vision token must matter to stay.

Paper: ye2025atpllava (abstract; the authors' code is not public). What the abstract leaves open follows a public
re-implementation of the paper, which is not the authors': scores, thresholds and the constants below.

Symbols: S_redundant → S_red, R_s → `sampling_rate`, λ_sample → `sample_weight`, θ_r and θ_s → thresholds.

Departs:
1. The weights of the modules are random unless trained ones are given, so that how much stays means nothing. The
   authors train them with the LLM, by soft masks and a penalty that holds the mean number of tokens near a target.
2. The self score of a token is the mean logit that it gets from all vision tokens, those before it among them, which is
   linear in the queries and needs no map. A re-implementation takes the mean of a token's row instead.
3. Sampled places are rows and columns of the grid that a stride divides, whatever has been dropped since; where tokens
   stand on no known grid they are counted along their order.
4. Where no token passes, the one of highest redundancy score stays.
5. Beside another technique that acts between LLM layers it is refused: a module reads the attention of the layer
   before, of the very tokens that modules left.

B batch, H heads, G key-value heads, N tokens, V vision tokens alive, T text tokens behind them, d head dimension,
D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.attention import share_heads
from lvlm_atlas.reference.ops.places import places_of, take
from lvlm_atlas.reference.refusal import Refusal


class Thresholds(nn.Module):
    """θ_r and θ_s of an input, each between 0 and 1, from the means of its scores."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.projection = nn.Linear(2, hidden)
        self.redundant_head, self.spatial_head = nn.Linear(hidden, 1), nn.Linear(hidden, 1)

    def forward(self, self_BV: Tensor, cross_BV: Tensor) -> tuple[Tensor, Tensor]:
        """Two (B, 1), float32."""
        mean_B2 = torch.stack([self_BV.mean(dim=1), cross_BV.mean(dim=1)], dim=1)
        z_BD = self.projection(mean_B2.to(self.projection.weight.dtype))
        return self.redundant_head(z_BD).float().sigmoid(), self.spatial_head(z_BD).float().sigmoid()


def self_score(query_BHVd: Tensor, key_BHVd: Tensor) -> Tensor:
    """The logit (B, V) that each vision token gets from vision tokens, mean over these and over heads, float32."""
    mean_BHd = query_BHVd.float().mean(dim=2)
    logit_BHV: Tensor = (key_BHVd.float() @ mean_BHd[..., None])[..., 0] / math.sqrt(query_BHVd.shape[3])
    return logit_BHV.mean(dim=1)


def cross_score(row_BHTN: Tensor, place_BV: Tensor) -> Tensor:
    """The attention (B, V) that each vision token gets from the text, mean over words and heads."""
    return row_BHTN.mean(dim=(1, 2)).gather(1, place_BV)


def spatial_score(place_BV3: Tensor, sampling_rate: float, sample_weight: float) -> Tensor:
    """1 − R_s λ, 0 at least, for tokens whose row and column a stride of √(1 / R_s) divides, 0 for others: (B, V).

    Args:
        place_BV3: frame, row and column.
        sampling_rate: R_s, share of the places that is sampled, as near as a whole stride comes.
        sample_weight: λ_sample.
    """
    stride = max(1, round(sampling_rate**-0.5))
    sampled_BV: Tensor = (place_BV3[..., 1:] % stride == 0).all(dim=2)
    return sampled_BV * max(0.0, 1 - sampling_rate * sample_weight)


def stays(redundant_BV: Tensor, spatial_BV: Tensor, theta_r: Tensor, theta_s: Tensor) -> Tensor:
    """True (B, V) where either score is above its threshold; the highest redundancy score where none is."""
    stays_BV = (redundant_BV > theta_r) | (spatial_BV > theta_s)
    first_B1 = redundant_BV.argmax(dim=1, keepdim=True)
    return stays_BV.scatter(1, first_B1, stays_BV.gather(1, first_B1) | ~stays_BV.any(dim=1, keepdim=True))


def soft_mask(redundant_BV: Tensor, spatial_BV: Tensor, theta_r: Tensor, theta_s: Tensor, temperature: float) -> Tensor:
    """What training multiplies attention with in place of dropping (B, V): the larger of two sigmoids."""
    return torch.maximum(
        ((redundant_BV - theta_r) * temperature).sigmoid(), ((spatial_BV - theta_s) * temperature).sigmoid()
    )


@dataclass(frozen=True)
class AtpLlava(Technique):
    """Prunes before each layer of `layers`; kept tokens keep their position ids.

    Raises:
        ValueError: an argument lies outside its range.
    """

    layers: tuple[int, ...] = (4, 14, 24)
    """The first layer behind each module; the attention of the layer before it decides."""
    sampling_rate: float = 0.25
    """Share of the grid's places that is sampled."""
    sample_weight: float = 3.0
    """How much a higher rate lowers the score of sampled places."""

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence", "training-data")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if any(layer < 1 for layer in self.layers) or [*self.layers] != sorted({*self.layers}):
            raise ValueError(f"layers must rise and be at least 1, got {[*self.layers]}")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate must lie in (0, 1], got {self.sampling_rate}")
        self.expect_at_least(0, "sample_weight")

    def begin(self, run: Run) -> Modules:
        """What acts in a run.

        Raises:
            Refusal: the LLM has no such layer, or another technique may drop tokens between its layers.
        """
        last, hidden = run.config.text.num_hidden_layers - 1, run.config.text.hidden_size
        if any(layer > last for layer in self.layers):
            raise Refusal(f"layers must lie in 1..{last} for an LLM of {last + 1} layers, got {[*self.layers]}")
        expect_alone(run, self, "ATP-LLaVA reads the attention of the tokens that it left itself")
        return Modules(
            self, {layer: module_of(run, (Thresholds, layer), lambda: Thresholds(hidden)) for layer in self.layers}
        )


@dataclass(frozen=True)
class Modules:
    """The modules of one run."""

    setting: AtpLlava
    at_layer: dict[int, Thresholds]

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer where a module stands.

        Raises:
            Refusal: no text follows the last vision token.
        """
        sequence, attention = at.sequence, at.sequence.attention
        if at.layer not in self.at_layer or attention is None:
            return sequence
        place_BV = sequence.vision_places()
        if not place_BV.shape[1]:
            return sequence
        behind = int(place_BV[:, -1].max()) + 1
        if behind == sequence.length:
            raise Refusal(
                "ATP-LLaVA lets the text behind the last vision token rate, got none; ask a question behind it"
            )
        self_BV = _self_score(attention, place_BV)
        cross_BV = cross_score(attention.rows(slice(behind, None)), place_BV)
        spatial_BV = spatial_score(_places(sequence, place_BV), self.setting.sampling_rate, self.setting.sample_weight)
        return self.pruned(sequence, (self_BV + cross_BV) / 2, spatial_BV, self.at_layer[at.layer](self_BV, cross_BV))

    def pruned(
        self, sequence: Sequence, redundant_BV: Tensor, spatial_BV: Tensor, thresholds: tuple[Tensor, Tensor]
    ) -> Sequence:
        """The tokens whose scores are above one of two thresholds (B, 1)."""
        return sequence.keep_vision(places_of(stays(redundant_BV, spatial_BV, *thresholds)))


def _self_score(attention: Probe, place_BV: Tensor) -> Tensor:
    query_BHNd = attention.query_BHNd
    key_BHNd = share_heads(attention.key_BGNd[:, :, attention.cached :], query_BHNd.shape[1])
    index_BHV = place_BV[:, None].expand(-1, query_BHNd.shape[1], -1)
    return self_score(take(query_BHNd, index_BHV), take(key_BHNd, index_BHV))


def _places(sequence: Sequence, place_BV: Tensor) -> Tensor:
    """Frame, row and column (B, V, 3); one long column where the tokens stand on no known grid."""
    if sequence.place_BN3 is not None:
        place_BV3 = take(sequence.place_BN3, place_BV)
        if bool((place_BV3 >= 0).all()):
            return place_BV3
    row_BV = torch.arange(place_BV.shape[1], device=place_BV.device).expand_as(place_BV)
    return torch.stack([torch.zeros_like(row_BV), row_BV, torch.zeros_like(row_BV)], dim=2)
