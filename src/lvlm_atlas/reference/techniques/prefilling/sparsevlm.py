"""SparseVLM: vision tokens are rated by the words that the image concerns, and the best of what goes is recycled.

Paper: zhang2025sparsevlm; code: Gumpest/SparseVLMs, version 1 on the main branch,
llava/model/language_model/modelling_sparse_llama.py, score.py and utils.py.

Symbols: `pruning_loc` → `layers`, `sparse_token_list` → `counts`, m → m_BT, the share 0.3 → `recycle`, 10 → `divisor`.

Departs:
1. How many stay after each sparse layer is a parameter; the code has a table of four budgets for 576 tokens. In the
   paper and in the first release the rank of the raters' attention decides.
2. Where no word stands out from the mean all of them rate; the code then averages over none.
3. Of equal scores the earlier token counts, in densities too; the code adds noise of 1e-6 to those. Means of clusters
   are plain; the code adds 1e-6 to their sizes.
4. Vision tokens may stand anywhere in front of the question, and recycled tokens follow the last of them; the code has
   one span. Beside another technique that acts between LLM layers it is refused, as the code takes for granted that it
   finds what it left.
5. The rows of the words behind the image are formed, in float32; the code forms the whole map. SparseVLM+, its version
   2, is another technique.

B batch, N tokens, V vision tokens, T words behind them, K tokens left, E and F of them before and behind the recycled
ones, R recycled, C clusters, H heads, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.ops.clustering import distance_to_denser, knn_density, nearest_centre, scaled_distance
from lvlm_atlas.reference.ops.merging import Matching
from lvlm_atlas.reference.ops.places import mask_of, places_of, take
from lvlm_atlas.reference.ops.selection import ranking, top_places
from lvlm_atlas.reference.refusal import Refusal


def raters(vision_BVD: Tensor, word_BTD: Tensor) -> Tensor:
    """True (B, T) at the words that rate: those whose share of the vision tokens' softmax over words is above the mean.

    Args:
        vision_BVD: embeddings of the vision tokens.
        word_BTD: embeddings of the words.
    """
    m_BT = (vision_BVD.float() @ word_BTD.float().mT).softmax(dim=-1).mean(dim=1)
    rates_BT = m_BT > m_BT.mean(dim=1, keepdim=True)
    return rates_BT | ~rates_BT.any(dim=1, keepdim=True)


def rating(row_BHTN: Tensor, rates_BT: Tensor, place_BV: Tensor) -> Tensor:
    """The attention (B, V) that the raters pay to each vision token, mean over heads and raters."""
    weight_BTN = row_BHTN.mean(dim=1) * rates_BT[..., None]
    return (weight_BTN.sum(dim=1) / rates_BT.sum(dim=1, keepdim=True)).gather(1, place_BV)


def split(tokens: int, count: int, recycle: float, divisor: int) -> tuple[int, int, int]:
    """Of so many vision tokens: how many stay, how many of the others are recycled, and into how many clusters."""
    keep = min(count, tokens - 1)
    recycled = int((tokens - keep) * recycle) + 1
    return keep, recycled, int(recycled / divisor) + 1


def clusters(x_BRD: Tensor, count: int) -> tuple[Tensor, Matching]:
    """Density peaks: places (B, C) of the centres, the highest peak first, and which token goes to which.

    Args:
        x_BRD: the tokens.
        count: C, which is also how many neighbours a density counts.
    """
    distance_BRR = scaled_distance(x_BRD)
    density_BR = knn_density(distance_BRR, count)
    centre_BC = ranking(density_BR * distance_to_denser(distance_BRR, density_BR))[:, :count]
    return centre_BC, nearest_centre(distance_BRR, centre_BC)


def mean_of(matching: Matching, x_BRD: Tensor) -> Tensor:
    """The mean of each cluster, (B, C, D)."""
    return matching.merge(x_BRD) / matching.merge(torch.ones_like(x_BRD[..., :1]))


def sparsify(sequence: Sequence, score_BV: Tensor, count: int, recycle: float, divisor: int) -> Sequence:
    """The tokens with the best `count` vision tokens, and means of the best others behind the last of them.

    They get the first position ids of what was there, and the token that follows the prompt the next one.
    """
    place_BV = sequence.vision_places()
    keep, recycled, made = split(place_BV.shape[1], count, recycle, divisor)
    kept_BV = mask_of(top_places(score_BV, keep), place_BV.shape[1])
    other_BR = place_BV.gather(1, ranking(score_BV)[:, keep : keep + recycled])
    centre_BC, matching = clusters(take(sequence.hidden_BND, other_BR), made)
    carrier_BC = other_BR.gather(1, centre_BC)

    def recycled_into(x: Tensor) -> Tensor:
        inner = x.shape[2:]
        mean_BCD = mean_of(matching, take(x, other_BR).flatten(2))
        return x.scatter(1, _wide(carrier_BC, inner), mean_BCD.reshape(*carrier_BC.shape, *inner).to(x.dtype))

    stays_BN = ~sequence.vision_BN.scatter(1, place_BV, ~kept_BV)
    behind = int(place_BV[:, -1].max()) + 1
    before_BE, after_BF = places_of(stays_BN[:, :behind]), behind + places_of(stays_BN[:, behind:])
    order_BK = torch.cat([before_BE, carrier_BC, after_BF], dim=1)
    changed = replace(
        sequence,
        hidden_BND=recycled_into(sequence.hidden_BND),
        deepstack_BNLD=None if sequence.deepstack_BNLD is None else recycled_into(sequence.deepstack_BNLD),
        place_BN3=None,
    ).keep(order_BK)
    first_BK = sequence.position_BN[:, : changed.length]
    next_B = torch.cat([sequence.position_BN, sequence.next_position[:, None]], dim=1)[:, changed.length]
    return replace(changed, position_BN=first_BK, origin_BN=first_BK, next_B=next_B)


def _wide(index_BC: Tensor, inner: torch.Size) -> Tensor:
    return index_BC.reshape(*index_BC.shape, *(1 for _ in inner)).expand(*index_BC.shape, *inner)


@dataclass(frozen=True)
class SparseVLM(Technique):
    """Prunes and recycles behind each layer of `layers`, and closes up the positions.

    Raises:
        ValueError: an argument lies outside its range.
    """

    layers: tuple[int, ...] = (2, 6, 15)
    """The sparse layers, three at most; their attention rates, and the layers behind them run on what is left."""
    counts: tuple[int, ...] = (300, 200, 110)
    """Vision tokens that stay behind each of them, without the recycled ones."""
    recycle: float = 0.3
    divisor: int = 10

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence", "one-position-axis")
    withholds: ClassVar = ("equal-frames", "frames-apart", "whole-grid")

    def __post_init__(self) -> None:
        layers, counts = tuple(self.layers), tuple(self.counts)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "counts", counts)
        if any(layer < 0 for layer in layers) or [*layers] != sorted({*layers}):
            raise ValueError(f"layers must rise and be at least 0, got {[*layers]}")
        if any(count < 1 for count in counts):
            raise ValueError(f"counts must be at least 1, got {[*counts]}")
        if not 0 <= self.recycle < 1:
            raise ValueError(f"recycle must lie in [0, 1), got {self.recycle}")
        self.expect_at_least(2, "divisor")

    def begin(self, run: Run) -> Sparsifying:
        """What acts in a run.

        Raises:
            Refusal: there is not one count for each layer, there are more than three, the LLM has no layer behind one,
                or another technique may drop tokens between its layers.
        """
        if len(self.layers) != len(self.counts) or len(self.layers) > 3:
            raise Refusal(
                f"layers and counts must be equally many, three at most, got {len(self.layers)} and {len(self.counts)}"
            )
        last = run.config.text.num_hidden_layers - 2
        if any(layer > last for layer in self.layers):
            raise Refusal(f"layers must lie in 0..{last}, so that a layer follows each, got {[*self.layers]}")
        expect_alone(run, self, "SparseVLM counts the tokens that it left itself")
        return Sparsifying(self, {layer + 1: count for layer, count in zip(self.layers, self.counts, strict=True)})


@dataclass
class Sparsifying:
    """SparseVLM in one run."""

    setting: SparseVLM
    count: dict[int, int]
    """Vision tokens that stay, by the first layer that runs on them."""
    rates_BT: Tensor = field(default_factory=Tensor)

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer behind a sparse layer.

        Raises:
            Refusal: no text follows the last vision token.
        """
        sequence, attention = at.sequence, at.sequence.attention
        if at.layer and at.layer not in self.count:
            return sequence
        place_BV = sequence.vision_places()
        if not place_BV.shape[1]:
            return sequence
        behind = int(place_BV[:, -1].max()) + 1
        if at.layer == 0:
            if behind == sequence.length:
                raise Refusal("SparseVLM lets the text behind the last vision token rate, got none")
            self.rates_BT = raters(take(sequence.hidden_BND, place_BV), sequence.hidden_BND[:, behind:])
        if at.layer not in self.count or attention is None:
            return sequence
        score_BV = rating(attention.rows(slice(behind, None)), self.rates_BT, place_BV)
        return sparsify(sequence, score_BV, self.count[at.layer], self.setting.recycle, self.setting.divisor)
