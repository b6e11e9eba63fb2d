"""FastV: from layer K on, only the vision tokens to which the last token of the prompt attended most.

Paper: chen2024fastv, sec. 4 (re-ranking by a function of the attention scores, filtering layer, filtering ratio).

Symbols: K → `layer`, 1 − R → `keep_ratio`, the ranking score φ → `score_BV`.

Departs:
1. The paper ranks by the attention a token receives from all tokens; the released code reads the last row of the
   map alone. This follows the code.
2. Of the released variants (mask without speed-up; drop anew for each generated token; prune once, in prefill) this
   is the last, `use_cache=True` in the code for LLaVA of transformers. The others generate different text.
3. Vision tokens may stand anywhere in the prompt; the code is told the start and length of one span.
4. K = 0 is refused, as in the code that drops tokens: there is no attention yet. The masking variant then keeps a
   random subset.
5. Softmax and the mean over heads are in float32; the code rounds the probabilities to the model's type first.
6. Of equal scores the earlier token is kept; the code's `topk` leaves that open.

B batch, H heads, N tokens, V vision tokens, K kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.refusal import Refusal


def last_query_score(row_BHN: Tensor, place_BV: Tensor) -> Tensor:
    """φ (B, V): the attention that the last token pays to each vision token, mean over heads.

    Args:
        row_BHN: softmax row of the last token.
        place_BV: where the vision tokens stand among the N.
    """
    return row_BHN.mean(dim=1).gather(1, place_BV)


def keep_top(score_BV: Tensor, keep_ratio: float) -> Tensor:
    """Ranks (B, K), ascending, of the highest scores; K = round(keep_ratio · V), halves to even."""
    keep = round(score_BV.shape[1] * keep_ratio)
    return top_places(score_BV, keep)


@dataclass(frozen=True)
class FastV(Technique):
    """Prunes once, before layer `layer`; kept tokens keep their position ids.

    Raises:
        ValueError: an argument lies outside its range.
    """

    layer: int = 2
    """The first layer that runs on the kept tokens; its predecessor's attention decides."""
    keep_ratio: float = 0.5
    """Share of the vision tokens kept."""

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if self.layer < 1:
            raise ValueError(f"layer must be at least 1 (the layer before it decides), got {self.layer}")
        self.expect_shares("keep_ratio")

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer from layer `layer` on.

        Raises:
            Refusal: the LLM has no layer of that index, so that nothing would ever be pruned.
        """
        if self.layer >= at.layers:
            raise Refusal(f"layer must be in 1..{at.layers - 1} for an LLM of {at.layers} layers, got {self.layer}")
        sequence, attention = at.sequence, at.sequence.attention
        if at.layer != self.layer or attention is None:
            return sequence
        last_row_BHN = attention.rows(slice(-1, None))[:, :, 0]
        score_BV = last_query_score(last_row_BHN, sequence.vision_places())
        return sequence.keep_vision(keep_top(score_BV, self.keep_ratio))
