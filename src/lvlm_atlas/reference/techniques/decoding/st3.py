"""ST3: vision tokens go in steps with the depth of the LLM, and with every token of the answer.

Paper: zhuang2025st3, of which the abstract and summaries could be read: progressive visual token pruning (PVTP) over
layers, visual token annealing (VTA) over steps. Symbols, ours: first layer that runs on fewer → `first_layer`, layers
between steps → `step_layers`, share that the last layers run on → `min_share`, annealing → `annealing`.

Departs:
1. Both schedules are ours, since the paper's could not be read. Shares fall by equal steps from 1 to `min_share`; while
   an answer grows, each token of it takes the place of one vision entry, as long as a layer has any.
2. PVTP ranks by what the last token of the prompt pays in the layer before, mean over heads; VTA by what the tokens pay
   that settle, mean over heads, so that the heads of a layer keep the same tokens.
3. A later turn of a session is refused: what it might ask about is gone.
4. Of equal tokens the earlier one stays. Positions stay.

B batch, H query heads, G key-value heads, R query rows, N tokens, V vision tokens, S entries, E that leave.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import CacheStep, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.ops.places import mask_of
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.fastv import last_query_score


def layer_share(layer: int, layers: int, first: int, step: int, least: float) -> float:
    """Share of the vision tokens that a layer runs on: 1 before `first`, then falling by equal steps to `least`.

    Args:
        layer: its index.
        layers: how many there are.
        first: the first layer that runs on fewer.
        step: layers that run on equally many.
        least: share of the last ones.
    """
    if layer < first:
        return 1.0
    steps = (layers - 1 - first) // step + 1
    return 1 - (1 - least) * ((layer - first) // step + 1) / steps


def anneal(score_BGS: Tensor, vision_BGS: Tensor, leave: int) -> Tensor:
    """True (B, G, S) at what stays: all but the `leave` vision entries of lowest score, or but all if they are fewer.

    Args:
        score_BGS: what each entry is paid.
        vision_BGS: True where it is visual.
        leave: entries that leave.
    """
    least_BGS = -score_BGS.masked_fill(~vision_BGS, float("inf"))
    # From the end on, so that of equal entries the later one leaves.
    place_BGE = top_places(least_BGS.flip(2), min(leave, score_BGS.shape[2]))
    return ~(mask_of(place_BGE, score_BGS.shape[2]).flip(2) & vision_BGS)


@dataclass
class Trimming:
    """ST3 in one run."""

    setting: St3
    run: Run
    arrived: int = 0
    """Vision tokens that entered the LLM."""
    budgets: dict[int, int] = field(default_factory=dict)
    """Of each layer the entries that the prompt has left."""

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer where a step begins.

        Raises:
            Refusal: the LLM has no layer `first_layer`, or this is a later turn.
        """
        setting, sequence, attention = self.setting, at.sequence, at.sequence.attention
        if self.run.round:
            raise Refusal(
                "ST3 has dropped what a later turn may ask about; ask everything at once, or read the picture anew"
            )
        if setting.first_layer >= at.layers:
            raise Refusal(
                f"first_layer must be in 1..{at.layers - 1} for an LLM of {at.layers} layers, got {setting.first_layer}"
            )
        if at.layer == 0:
            self.arrived = sequence.vision_places().shape[1]
        share = layer_share(at.layer, at.layers, setting.first_layer, setting.step_layers, setting.min_share)
        since = at.layer - setting.first_layer
        if attention is None or since < 0 or since % setting.step_layers:
            return sequence
        place_BV = sequence.vision_places()
        keep = min(int(self.arrived * share), place_BV.shape[1])
        row_BHN = attention.rows(slice(-1, None))[:, :, 0]
        return sequence.keep_vision(top_places(last_query_score(row_BHN, place_BV), keep))

    def evict(self, at: CacheStep) -> Tensor | None:
        """Which entries stay once tokens of the answer have settled; None: all."""
        if at.prompt:
            return None
        leave = at.held.length - self.budgets.setdefault(at.layer, at.earlier)
        if leave <= 0 or not self.setting.annealing:
            return None
        paid_B1S = at.rows(slice(None)).mean(dim=(1, 2))[:, None]
        vision_BGS = at.held.vision_BGS & at.held.visible_BGS
        return anneal(paid_B1S.expand(vision_BGS.shape), vision_BGS, leave)


@dataclass(frozen=True)
class St3(Technique):
    """ST3 at `llm-layer` and `cache-step`.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    first_layer: int = 2
    """The first layer that runs on fewer vision tokens; the one before decides."""
    step_layers: int = 4
    """Layers that run on equally many."""
    min_share: float = 0.1
    """Share of the vision tokens that the last layers run on."""
    annealing: bool = True
    """Whether each token of the answer takes the place of a vision entry."""

    acts_at: ClassVar = ("llm-layer", "cache-step")
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence", "equal-heads")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        for name in ("first_layer", "step_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.min_share <= 1:
            raise ValueError(f"min_share must lie in [0, 1], got {self.min_share}")

    def begin(self, run: Run) -> Trimming:
        """What acts in a run.

        Raises:
            Refusal: another technique may drop tokens between the LLM's layers.
        """
        expect_alone(run, self, "the shares of ST3 are of the tokens that entered the LLM")
        return Trimming(self, run)
