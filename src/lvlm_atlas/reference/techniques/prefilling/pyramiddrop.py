"""PyramidDrop: at the end of each stage of the LLM's layers, only the vision tokens that the question attends to most.

Paper: xing2025pyramiddrop, sec. 3; code: Cooperx521/PyramidDrop, llava/model/modeling_llama_pdrop.py.

Symbols: stage boundaries, `layer_list` → `layers`, `image_token_ratio_list` → `ratios`, vision tokens that entered the
LLM → `arrived`.

Departs:
1. Vision tokens may stand anywhere in the prompt; the code is told the start and length of one span.
2. Beside another technique that acts between LLM layers it is refused: the code takes for granted that each stage
   finds as many vision tokens as the one before has left.
3. The published ratio λ of each stage to the one before is one of several shapes; as in the code, each boundary has a
   ratio of its own, to the number that entered the LLM.
4. Positions on several axes (M-RoPE) close up as `Sequence.renumber` does; the code has one axis.
5. The mean over heads is in float32; the code rounds the probabilities to the model's type first.
6. Of equal scores the earlier token is kept; the code's `topk` leaves that open.
7. Inference only; in training the code averages over all tokens that stand before an answer.

B batch, H heads, N tokens, V vision tokens alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.refusal import Refusal


def instruction_score(row_BHN: Tensor, place_BV: Tensor) -> Tensor:
    """The attention (B, V) that the last token of the instruction pays to each vision token, mean over heads.

    Args:
        row_BHN: its softmax row over all tokens, in the layer about to run.
        place_BV: where the vision tokens stand among the N.
    """
    return row_BHN.mean(dim=1).gather(1, place_BV)


def stage_count(arrived: int, ratio: float) -> int:
    """Vision tokens that a stage runs on: the share of those that entered the LLM, rounded down."""
    return int(arrived * ratio)


def rank_and_drop(score_BV: Tensor, keep: int) -> Tensor:
    """Ranks (B, K), ascending, of the `keep` vision tokens of highest score."""
    return top_places(score_BV, keep)


@dataclass(frozen=True)
class PyramidDrop(Technique):
    """Prunes before each layer of `layers`, and closes up the positions.

    Raises:
        ValueError: an argument lies outside its range.
    """

    layers: tuple[int, ...] = (8, 16, 24)
    """The first layer of each later stage; its own queries and keys decide."""
    ratios: tuple[float, ...] = (0.5, 0.25, 0.125)
    """Share of the vision tokens that entered the LLM, for each of these stages."""

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        layers, ratios = tuple(self.layers), tuple(self.ratios)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "ratios", ratios)
        if any(layer < 1 for layer in layers) or [*layers] != sorted({*layers}):
            raise ValueError(f"layers must rise and be at least 1, got {[*layers]}")
        if any(not 0 <= ratio <= 1 for ratio in ratios):
            raise ValueError(f"ratios must lie in [0, 1], got {[*ratios]}")
        if [*ratios] != sorted(ratios, reverse=True):
            raise ValueError(f"ratios must not rise, for a dropped token does not return, got {[*ratios]}")

    def begin(self, run: Run) -> Stages:
        """What acts in a run.

        Raises:
            Refusal: there is not one ratio for each boundary, the LLM has no such layer, or another technique may drop
                tokens between its layers.
        """
        if len(self.layers) != len(self.ratios):
            raise Refusal(f"layers and ratios must be equally many, got {len(self.layers)} and {len(self.ratios)}")
        last = run.config.text.num_hidden_layers - 1
        if any(layer > last for layer in self.layers):
            raise Refusal(f"layers must lie in 1..{last} for an LLM of {last + 1} layers, got {[*self.layers]}")
        expect_alone(run, self, "the shares of PyramidDrop are of the tokens that entered the LLM")
        return Stages(dict(zip(self.layers, self.ratios, strict=True)))


@dataclass
class Stages:
    """The stages of one run."""

    ratio: dict[int, float]
    """Of the original tokens, by the first layer that runs on them."""
    arrived: int = 0
    """Vision tokens that entered the LLM."""

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer where a stage begins."""
        sequence = at.sequence
        place_BV = sequence.vision_places()
        if at.layer == 0:
            self.arrived = place_BV.shape[1]
        if at.layer not in self.ratio:
            return sequence
        row_BHN = at.ahead().rows(slice(-1, None))[:, :, 0]
        keep = stage_count(self.arrived, self.ratio[at.layer])
        return sequence.keep_vision(rank_and_drop(instruction_score(row_BHN, place_BV), keep)).renumber()
