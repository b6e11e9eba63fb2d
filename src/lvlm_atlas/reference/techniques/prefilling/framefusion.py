"""FrameFusion: what repeats the frame before is merged layer by layer, and one pruning brings the rest to a budget.

Paper: fu2025framefusion; code: thu-nics/FrameFusion, framefusion/main.py, framefusion/models/qwen2/modeling_qwen2.py.

Symbols: `cost` is itself, `similarity_lower_bound` (S_th) → `similarity`, `ratio_lower_bound` → `least_merged`,
`sparsity_list` → ratios, `patch_type` → slot_V.

Departs:
1. Merging and pruning stand before a layer, all of which then runs on what is left; the code acts between attention and
   FFN of the layer before, whose FFN it saves too. The budget counts layers the same way in both.
2. The budget is of the model's own number of layers, which the code has fixed to 28.
3. Where merging alone goes past the budget the run is refused; the code fails there too.
4. The number of tokens that a frame has is read from the prompt; the code is told one for each model.
5. Sums of a run and the mean over heads are in float32; of equal cosines or scores the earlier token counts, of cosines
   by slot and then by frame. The code leaves ties to `topk`.
6. DeepStack features are averaged with their tokens; the code knows models without them.

V vision tokens, K kept, L DeepStack layers, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmInput, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.ops.selection import top_mask, top_places
from lvlm_atlas.reference.refusal import Refusal

ALONE = -2.0
"""In place of the cosine of a token whose slot has no earlier one; below every cosine."""


def required_ratio(ratios: Seq[float], cost: float, layers: int) -> float:
    """Share of the tokens alive that must go now, so that all layers on average run on `cost` of those at first.

    Args:
        ratios: of each layer so far, the share of its tokens that went before it.
        cost: the budget.
        layers: of the LLM, more than `ratios`.

    Raises:
        Refusal: the layers so far have spent more than the budget of all.
    """
    alive, spent = 1.0, 0.0
    for ratio in ratios:
        alive *= 1 - ratio
        spent += alive
    left = layers * cost - spent
    if left < 0:
        raise Refusal(
            f"FrameFusion has spent {spent:g} layers of vision tokens, and a cost of {cost:g} allows {layers * cost:g} "
            f"of {layers}; raise cost or least_merged"
        )
    return max(0.0, 1 - left / ((layers - len(ratios)) * alive))


def likeness(x_VD: Tensor, slot_V: Tensor) -> Tensor:
    """Cosine (V,) of each token with the last one before it in the same slot; −2 where there is none.

    Args:
        x_VD: hidden states in the order of the prompt.
        slot_V: where a token stands in its frame.
    """
    order_V = slot_V.argsort(stable=True)
    sorted_VD, sorted_V = x_VD[order_V].float(), slot_V[order_V]
    cosine_V = functional.cosine_similarity(sorted_VD[1:], sorted_VD[:-1], dim=-1)
    cosine_V = functional.pad(cosine_V.where(sorted_V[1:] == sorted_V[:-1], ALONE), (1, 0), value=ALONE)
    return torch.empty_like(cosine_V).scatter(0, order_V, cosine_V)


def repeats(likeness_V: Tensor, slot_V: Tensor, similarity: float, required: float) -> tuple[Tensor, bool]:
    """True (V,) at the tokens that are merged away, and whether they are as many as the budget requires.

    Args:
        likeness_V: see `likeness`.
        slot_V: where a token stands in its frame; of equal cosines the lower slot counts.
        similarity: least cosine of what is merged.
        required: share that would meet the budget; no more than ⌊`required` · V⌋ go, the most alike.
    """
    gone_V = likeness_V >= similarity
    if int(gone_V.sum()) / len(gone_V) < required:
        return gone_V, False
    order_V = slot_V.argsort(stable=True)
    best_V = top_mask(likeness_V[order_V], int(required * len(gone_V)))
    return torch.zeros_like(gone_V).scatter(0, order_V, best_V), True


def absorb(x_VD: Tensor, slot_V: Tensor, gone_V: Tensor) -> Tensor:
    """The tokens (V, D) with each that stays before some that go, slot by slot, the plain mean of itself and those.

    Args:
        x_VD: hidden states in the order of the prompt.
        slot_V: where a token stands in its frame.
        gone_V: True at what goes; never the first token of a slot.
    """
    order_V = slot_V.argsort(stable=True)
    group_V = torch.empty_like(order_V).scatter(0, order_V, (~gone_V[order_V]).cumsum(0) - 1)
    sum_VD = torch.zeros_like(x_VD, dtype=torch.float32).index_add(0, group_V, x_VD.float())
    size_V = torch.zeros_like(sum_VD[:, 0]).index_add(0, group_V, torch.ones_like(sum_VD[:, 0]))
    return (sum_VD[group_V] / size_V[group_V, None]).to(x_VD.dtype).where(~gone_V[:, None], x_VD)


@dataclass(frozen=True)
class FrameFusion(Technique):
    """Merges before the first layers and prunes once behind them; what is left keeps its position ids.

    Raises:
        ValueError: an argument lies outside its range.
    """

    cost: float = 0.3
    """Share of the vision tokens that a layer runs on, on average over all."""
    similarity: float = 0.6
    """Least cosine with the token of an earlier frame into which a token is merged."""
    least_merged: float = 0.1
    """Share below which a merging is the last one."""

    acts_at: ClassVar = ("llm-input", "llm-layer")
    needs: ClassVar = (
        "visual-features", "modality-mask", "vision-in-sequence", "equal-frames", "frames-apart", "attention-row",
    )  # fmt: skip
    withholds: ClassVar = ("equal-frames", "frames-apart")

    def __post_init__(self) -> None:
        if not 0 < self.cost <= 1:
            raise ValueError(f"cost must lie in (0, 1], got {self.cost}")
        if not -1 <= self.similarity <= 1:
            raise ValueError(f"similarity must lie in [-1, 1], got {self.similarity}")
        self.expect_shares("least_merged")

    def begin(self, run: Run) -> Fusing:
        """What acts in a run.

        Raises:
            Refusal: another technique may drop tokens between the layers.
        """
        expect_alone(run, self, "the budget of FrameFusion is of the tokens that entered the LLM")
        return Fusing(self, run)


@dataclass
class Fusing:
    """FrameFusion in one run or session."""

    setting: FrameFusion
    run: Run
    ratios: list[float] = field(default_factory=list)
    """Of each layer so far, the share of its vision tokens that was merged away."""
    stage: str = "merge"
    """What is next: `merge`, `prune` or `done`."""
    slot_V: Tensor = field(default_factory=Tensor)
    """Where each vision token alive stands in its frame."""

    def llm_input(self, at: LlmInput) -> Sequence:
        """The prompt after the first merging.

        Raises:
            Refusal: frames have different numbers of tokens.
        """
        self.ratios, self.slot_V = [], self._slots(at.sequence)
        self.stage = "merge" if len(self.slot_V) else "done"
        return self._merge(at.sequence) if self.stage == "merge" else at.sequence

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer before the layers behind the first.

        Raises:
            Refusal: merging alone goes past the budget.
        """
        sequence = at.sequence
        if at.layer == 0 or self.stage == "done" or sequence.attention is None:
            return sequence
        if self.stage == "merge":
            return self._merge(sequence)
        self.stage = "done"
        place_V = sequence.vision_places()[0]
        score_V = sequence.attention.rows(slice(-1, None))[0, :, 0].mean(dim=0)[place_V]
        return sequence.keep_vision(top_places(score_V, round(len(place_V) * (1 - self._required)))[None])

    def _merge(self, sequence: Sequence) -> Sequence:
        """The tokens without repeats, and what is next."""
        place_V, slot_V = sequence.vision_places()[0], self.slot_V
        likeness_V = likeness(sequence.hidden_BND[0, place_V], slot_V)
        gone_V, met = repeats(likeness_V, slot_V, self.setting.similarity, self._required)
        kept_K = (~gone_V).nonzero()[:, 0]
        self.ratios.append((len(place_V) - len(kept_K)) / len(place_V))
        if met or self.ratios[-1] < self.setting.least_merged:
            self.stage = "done" if met else "prune"

        def fused(x: Tensor) -> Tensor:
            own = x[0, place_V]
            mean_VD = absorb(own.flatten(1), slot_V, gone_V)
            return x.index_copy(1, place_V, mean_VD.reshape(own.shape)[None])

        self.slot_V = slot_V[kept_K]
        return replace(
            sequence,
            hidden_BND=fused(sequence.hidden_BND),
            deepstack_BNLD=None if sequence.deepstack_BNLD is None else fused(sequence.deepstack_BNLD),
        ).keep_vision(kept_K[None])

    @property
    def _required(self) -> float:
        return required_ratio(self.ratios, self.setting.cost, self.run.config.text.num_hidden_layers)

    def _slots(self, sequence: Sequence) -> Tensor:
        """Where each vision token of the prompt stands in its frame."""
        vision = int(sequence.vision_BN.sum())
        lengths = [length for length in self.run.prompt.span_lengths if length] if self.run.prompt else [vision]
        if len({*lengths}) > 1:
            raise Refusal(f"FrameFusion compares frames of equally many tokens, got {lengths}; leave one out")
        return torch.arange(vision, device=sequence.hidden_BND.device) % max([1, *lengths])
