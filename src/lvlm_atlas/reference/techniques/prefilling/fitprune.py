"""FitPrune: how many vision tokens each layer deletes is fitted beforehand to leave attention as it was.

Paper: ye2025fitprune; statistics, search and deletion as in the official code (`llava/eval/statistical_analysis.py`,
`llava/model/language_model/modeling_llama.py`).
Symbols: `reduction_ratio` → `reduction`; tolerance α (`mid_alpha`) → `alpha`; the deletion scheme → `calibration`.

Departs:
1. Tokens go before the next layer; in the code they go between the attention of a layer and its output projection. What
   is left is the same, and so are caches; the MLP of that layer runs on the tokens that then go. The budget counts
   as the code does.
2. The scheme is in shares of the vision tokens, rounded down at use, since requests differ in length; the code has 576.
3. The scheme is that of the smallest tolerance tried that keeps the budget; the code prints that of the last one tried.
   If none keeps it, it is that of the largest.
4. The last layer deletes nothing: no layer follows. One vision token stays at least; the code leaves that case open.
5. Maps are read in float32 and summed in float64; the code rounds the probabilities to the model's type.
6. Text counts from the last vision token on, wherever the vision tokens stand; the code has one span after 35 tokens.
7. Of equal scores the earlier token goes first; the code's sort leaves that open.

H heads, R rows, N tokens, V vision tokens, L layers, D width.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.config import TextConfig
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.places import mask_of, places_of
from lvlm_atlas.reference.refusal import Refusal

PRECISION = 0.01
"""The search ends when the tolerance is known to within this."""


def received(row_HRN: Tensor, place_V: Tensor) -> tuple[Tensor, Tensor]:
    """Attention that each vision token gets (V,): from a text token after them, and from a vision token, on average.

    Args:
        row_HRN: softmax rows of the first vision token and of all that follow; the heads' maximum counts.
        place_V: places of the vision tokens among the N, ascending.
    """
    most_RN = row_HRN.amax(0).double()
    first = most_RN.shape[1] - most_RN.shape[0]
    to_vision_RV = most_RN[:, place_V]
    text_V = to_vision_RV[int(place_V[-1]) + 1 - first :].sum(0) / (most_RN.shape[1] - 1 - int(place_V[-1]))
    return text_V, to_vision_RV[place_V - first].sum(0) / len(place_V)


def deletable(score_V: Tensor, mass: float, alpha: float) -> Tensor:
    """Places of the smallest scores, as many as can go while (1 − α) of `mass` stays; never all."""
    ascending = score_V.sort(stable=True)
    left_V = score_V.sum() - ascending.values.cumsum(0)
    count = int((left_V >= mass - mass * alpha).long().cumprod(0).sum())
    return ascending.indices[: min(count, len(score_V) - 1)]


def intersection(cross_V: Tensor, self_V: Tensor, masses: tuple[float, ...], alpha: float) -> Tensor:
    """Places, ascending, of the tokens that may go by both scores."""
    both = [mask_of(deletable(*each, alpha), len(cross_V)) for each in zip((cross_V, self_V), masses, strict=True)]
    return places_of(both[0] & both[1])


def least(cross_V: Tensor, self_V: Tensor, count: int) -> Tensor:
    """Places, ascending, of the tokens with the smallest products of the two scores."""
    return (cross_V * self_V).sort(stable=True).indices[:count].sort().values


def flop(counts: Seq[int], deleted: Seq[int], shape: TextConfig) -> float:
    """Multiply-adds that the vision tokens cost: projections and attention of each layer on those that enter it, output
    projection and MLP on those that it leaves.
    """
    width, heads = shape.hidden_size, shape.num_attention_heads * shape.head_dim
    groups = shape.num_key_value_heads * shape.head_dim
    entering = sum(n * width * (heads + 2 * groups) + 2 * n * n * heads for n in counts)
    leaving = (n - d for n, d in zip(counts, deleted, strict=True))
    return entering + sum(n * (width * heads + 3 * width * shape.intermediate_size) for n in leaving)


def within_budget(
    vision: Seq[int], deleted: Seq[Seq[int]], shape: TextConfig, reduction: float
) -> tuple[list[list[int]], bool]:
    """The deletions of samples up to the layer where their mean cost is low enough, and whether it ever is.

    Args:
        vision: vision tokens of each sample.
        deleted: of each sample, how many each layer would delete.
        shape: the LLM.
        reduction: share of the cost that must go.
    """
    layers = len(deleted[0])
    budget = sum(flop([n] * layers, [0] * layers, shape) for n in vision) * (1 - reduction)
    for layer in range(layers):
        kept = [[*each[:layer], *[0] * (layers - layer)] for each in deleted]
        entering = [[n - sum(each[:i]) for i in range(layers)] for n, each in zip(vision, kept, strict=True)]
        cost = sum(flop(*each, shape) for each in zip(entering, kept, strict=True))
        if cost <= budget:
            return kept, True
    return [list(each) for each in deleted], False


def scores(probe: Probe, place_V: Tensor) -> tuple[Tensor, Tensor]:
    """`received` of a layer.

    Raises:
        Refusal: no text follows the last vision token.
    """
    if int(place_V[-1]) + 1 == probe.key_BGNd.shape[2]:
        raise Refusal("FitPrune needs text after the last vision token, got none")
    return received(probe.rows(slice(int(place_V[0]), None))[0], place_V)


@dataclass
class _Tolerant(Technique):
    """Deletes in each layer what a tolerance allows, and notes how many."""

    masses: Seq[tuple[float, ...]]
    alpha: float
    deleted: list[int] = field(default_factory=list)

    acts_at: ClassVar = ("llm-layer",)

    def llm_layer(self, at: LlmLayer) -> Sequence:
        sequence, attention = at.sequence, at.sequence.attention
        if attention is None:
            return sequence
        place_V = sequence.vision_places()[0]
        gone = intersection(*scores(attention, place_V), self.masses[at.layer - 1], self.alpha)
        self.deleted.append(len(gone))
        return sequence.keep_vision(places_of(~mask_of(gone, len(place_V)))[None])


class _Scheme:
    """Deletes in each layer as many as the scheme has."""

    def __init__(self, shares: Seq[float]) -> None:
        self.shares, self.vision = shares, 0

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens without those that the layer before deletes.

        Raises:
            Refusal: the scheme is of a model with another number of layers.
        """
        if len(self.shares) != at.layers:
            raise Refusal(f"FitPrune is calibrated for {len(self.shares)} layers, got {at.layers}; calibrate it anew")
        sequence, attention = at.sequence, at.sequence.attention
        place_V = sequence.vision_places()[0]
        if at.layer == 0:
            self.vision = len(place_V)
        count = min(int(self.shares[at.layer - 1] * self.vision + 1e-9), len(place_V) - 1)
        if attention is None or count <= 0:
            return sequence
        gone = least(*scores(attention, place_V), count)
        return sequence.keep_vision(places_of(~mask_of(gone, len(place_V)))[None])


@dataclass(frozen=True)
class FitPrune(Technique):
    """FitPrune at `llm-layer`, by a scheme that `calibrate` finds.

    Raises:
        ValueError: a parameter out of its range.
    """

    reduction: float = 0.6
    """Share of the vision tokens' cost in the LLM that is to go."""
    calibration: tuple[float, ...] | None = field(default=None, repr=False)
    """Share of the vision tokens that each layer deletes."""

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("attention-map", "modality-mask", "vision-in-sequence", "calibration-samples")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if not 0 <= self.reduction < 1:
            raise ValueError(f"reduction must lie in [0, 1), got {self.reduction}")

    def calibrate(self, lvlm: Target, samples: Seq[Request]) -> Self:
        """The smallest tolerance whose deletions keep the budget, found by bisection on the samples.

        Raises:
            ValueError: there is no sample.
            Refusal: of a sample no text follows the last vision token.
        """
        if not samples:
            raise ValueError("FitPrune is calibrated on samples, got none; give it a few requests")
        shape, masses, vision = lvlm.begin(samples[0]).config.text, [], []
        for sample in samples:
            observed = lvlm.observe(sample)
            place_V = observed.inputs.vision_places()[0]
            masses.append([tuple(float(each.sum()) for each in scores(p, place_V)) for p, _ in observed.attention])
            vision.append(len(place_V))
        low, high, scheme = 0.0, 1.0, [[0] * len(masses[0]) for _ in samples]
        while high - low > PRECISION + 1e-6:
            alpha = (low + high) / 2
            deleted = [_deleted(lvlm, *each, alpha) for each in zip(samples, masses, strict=True)]
            kept, reached = within_budget(vision, deleted, shape, self.reduction)
            low, high = (low, alpha) if reached else (alpha, high)
            if reached or high == 1:
                scheme = kept
        shares = [[d / n for d in each] for n, each in zip(vision, scheme, strict=True)]
        return replace(self, calibration=tuple(sum(layer) / len(samples) for layer in zip(*shares, strict=True)))

    def begin(self, run: Run) -> _Scheme:  # noqa: ARG002
        """What deletes in one run."""
        return _Scheme(self.calibration or ())


@torch.inference_mode()
def _deleted(lvlm: Target, sample: Request, masses: Seq[tuple[float, ...]], alpha: float) -> list[int]:
    """How many tokens each layer deletes of a sample; the last deletes none."""
    tolerant = _Tolerant(masses, alpha)
    run = lvlm.begin(sample, [tolerant])
    lvlm.prefill(lvlm.prepare(run), run)
    return [*tolerant.deleted, 0]
