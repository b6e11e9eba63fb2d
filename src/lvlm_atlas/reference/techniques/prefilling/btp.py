"""BTP: vision tokens are pruned in stages between LLM layers, early ones by diversity, late ones by attention.

Paper: li2025btp (abstract). Code: llava/modeling_llama.py of a public copy of the authors' repository,
allenhaozhu/NeurIPS2025-Balanced-Token-Pruning at 9682db0: `div_prune`, `attn_prune`, `get_div_initial_indices`.

Symbols: `start_layer`, `img_sense_layer`, `rel_start_layer` − 1 → `layers`; `end_layer` → `end_layer`; the factors 3.7,
1.5 and 1.2 of `extra_num` → `extras`; `initial_div_indices` → `spatial_seed`.

Departs:
1. The stages are parameters, and `calibrate` sets them from samples. How the paper reads them off its calibration set
   is not in what could be read: a stage begins here behind each of the layers across which the states of the vision
   tokens turn most, by the mean cosine. The code has the outcome for LLaVA-1.5-7B, which are the defaults, and no
   calibration.
2. Counts are shares of the vision tokens that entered the LLM; the code writes 576 tokens, a grid of 24 × 24 and a
   prompt of 35 tokens in front. Beside another technique that acts between LLM layers it is refused, since the code
   takes for granted that a stage finds what the one before has left.
3. What several rules choose is kept once. The code's second stage joins numbers with tensors, which are never equal,
   so that a token chosen by both stands twice in the prompt.
4. Where the rules choose more than a stage keeps, attention goes before the spatial seed and that before diversity, in
   the order of choice; the code then keeps all, and counts wrong afterwards.
5. Several frames are seeded each on its own grid, of which others may have dropped tokens. Where tokens stand on no
   known grid (tiled images, other adapters, merged tokens), the seed spreads along their order.
6. Attention and distances are in float32. Of equal ones the earlier token goes first; the code leaves that open.

B batch, H heads, N tokens, V vision tokens alive, K kept, D width.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.ops.diversity import farthest_points, select_diverse
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.ops.selection import ranking
from lvlm_atlas.reference.ops.similarity import cosine_distance, unit
from lvlm_atlas.reference.refusal import Refusal


def balanced_attention(score_V: Tensor, select: int, extra: float, early: int) -> Tensor:
    """Places (`select`,) of highly attended tokens, those that stand early first.

    Attention favours late tokens. So more than needed are looked at, the int(`select` · `extra`) best: those of them
    among the first `early` tokens are all taken while there is room, late ones fill what is left, each by its score.

    Args:
        score_V: attention of the last token.
        select: tokens to choose, at most V.
        extra: how many times as many are looked at.
        early: tokens that count as early.
    """
    best = ranking(score_V)[: max(select, int(select * extra))]
    return torch.cat([best[best < early], best[best >= early]])[:select]


def spatial_seed(place_V3: Tensor, share: float) -> Tensor:
    """Places of a share of each frame's tokens that lie far apart on its grid, from its first token on.

    Args:
        place_V3: frame, row and column.
        share: of a frame's tokens, rounded down.
    """
    seeds = []
    for frame in place_V3[:, 0].unique().tolist():
        index_M = (place_V3[:, 0] == frame).nonzero()[:, 0]
        count = int(len(index_M) * share)
        if count:
            place_M2 = place_V3[index_M, 1:].float()
            distance_MM = (place_M2[:, None] - place_M2).abs().sum(-1)
            start = torch.zeros(1, 1, dtype=torch.long, device=place_V3.device)
            seeds.append(index_M[farthest_points(distance_MM[None], start, count)[0]])
    return torch.cat(seeds) if seeds else torch.empty(0, dtype=torch.long, device=place_V3.device)


def fill_up(chosen: Seq[int], distance_VV: Tensor, keep: int) -> list[int]:
    """The first `keep` different places of those chosen, or all of them and those farthest from them."""
    different = [*dict.fromkeys(chosen)][:keep]
    if not different:
        return [*map(int, select_diverse(distance_VV[None], keep)[0].tolist())]
    start_1S = torch.tensor([different], device=distance_VV.device)
    return [*map(int, farthest_points(distance_VV[None], start_1S, keep)[0].tolist())]


def turn_of(before_BVD: Tensor, after_BVD: Tensor) -> float:
    """How far a layer turns the states of tokens: the mean of 1 − cosine between what enters and what leaves it."""
    return float((1 - (unit(before_BVD.float()) * unit(after_BVD.float())).sum(dim=-1)).mean())


def stages_behind(turn: Seq[float], stages: int) -> tuple[int, ...]:
    """The first layer of each stage, rising: it follows one of the layers that turn most, the earlier of equal ones.

    Args:
        turn: how far each layer turns the vision tokens, of all that one follows.
        stages: how many there are to be, at most as many as layers.
    """
    most = sorted(range(len(turn)), key=lambda layer: -turn[layer])[:stages]
    return tuple(sorted(layer + 1 for layer in most))


@dataclass(frozen=True)
class Btp(Technique):
    """Prunes before each layer of `layers`; kept tokens keep their position ids.

    Raises:
        ValueError: an argument lies outside its range.
    """

    layers: tuple[int, ...] = (3, 6, 14)
    """The first layer of each stage; the attention of the layer before it decides."""
    divisors: tuple[int, ...] = (2, 4, 12)
    """Of the vision tokens that entered the LLM a stage keeps one in so many."""
    diversity: tuple[float, ...] = (0.3, 0.1, 0.0)
    """Share of a stage's tokens chosen for lying far apart."""
    attention: tuple[float, ...] = (0.3, 0.9, 1.0)
    """Share of a stage's tokens chosen for being attended to."""
    extras: tuple[float, ...] = (3.7, 1.5, 1.2)
    """How many times as many highly attended tokens are looked at."""
    seed: float = 0.25
    """Share of the tokens that the first stage finds which lie far apart on the grid."""
    end_layer: int = 22
    """The first layer without vision tokens; beyond the last one there is none."""

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence", "visual-features")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        for name in ("layers", "divisors", "diversity", "attention", "extras"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if any(layer < 1 for layer in self.layers) or [*self.layers] != sorted({*self.layers}):
            raise ValueError(f"layers must rise and be at least 1, got {[*self.layers]}")
        if any(each < 1 for each in self.divisors) or [*self.divisors] != sorted(self.divisors):
            raise ValueError(f"divisors must not fall and be at least 1, got {[*self.divisors]}")
        for name in ("diversity", "attention"):
            if any(not 0 <= share <= 1 for share in getattr(self, name)):
                raise ValueError(f"{name} must lie in [0, 1], got {[*getattr(self, name)]}")
        if any(extra < 1 for extra in self.extras):
            raise ValueError(f"extras must be at least 1, got {[*self.extras]}")
        self.expect_shares("seed")
        self.expect_at_least(1, "end_layer")

    def calibrate(self, lvlm: Target, samples: Seq[Request]) -> Self:
        """The same with the stages behind the layers that turn the vision tokens of the samples most.

        Raises:
            ValueError: there is no sample, or one has no vision token.
            Refusal: the LLM has fewer layers between its first and `end_layer` than there are stages.
        """
        if not samples:
            raise ValueError("BTP is calibrated on samples, got none; give it a few requests")
        turns = [_turns(lvlm, sample) for sample in samples]
        usable = min(len(turns[0]), self.end_layer - 1)
        if usable < len(self.layers):
            raise Refusal(f"{len(self.layers)} stages do not fit behind {usable} layers; describe fewer of them")
        mean = [sum(layer) / len(samples) for layer in zip(*turns, strict=True)]
        return replace(self, layers=stages_behind(mean[:usable], len(self.layers)))

    def begin(self, run: Run) -> Stages:
        """What acts in a run.

        Raises:
            Refusal: the stages are not described alike, the LLM has no such layer, or another technique may drop
                tokens between its layers.
        """
        lengths = {len(each) for each in (self.layers, self.divisors, self.diversity, self.attention, self.extras)}
        if len(lengths) > 1:
            raise Refusal("layers, divisors, diversity, attention and extras must be equally many, one for each stage")
        last = run.config.text.num_hidden_layers - 1
        if any(layer > last for layer in self.layers):
            raise Refusal(f"layers must lie in 1..{last} for an LLM of {last + 1} layers, got {[*self.layers]}")
        expect_alone(run, self, "the shares of BTP are of the tokens that entered the LLM")
        return Stages(self)


@dataclass
class Stages:
    """The stages of one run."""

    setting: Btp
    arrived: int = 0
    """Vision tokens that entered the LLM."""

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer where a stage begins."""
        sequence, setting = at.sequence, self.setting
        if at.layer == 0:
            self.arrived = sequence.vision_places().shape[1]
        if at.layer == setting.end_layer:
            return sequence.keep(torch.stack([row.nonzero()[:, 0] for row in ~sequence.vision_BN]))
        if at.layer not in setting.layers or sequence.attention is None:
            return sequence
        place_BV = sequence.vision_places()
        stage = setting.layers.index(at.layer)
        keep = self.arrived // setting.divisors[stage]
        if keep >= place_BV.shape[1]:  # nothing to drop, or nothing left behind `end_layer`
            return sequence
        row_BN = sequence.attention.rows(slice(-1, None))[:, :, 0].mean(dim=1)
        seeded = stage == 0 and setting.seed > 0
        kept = []
        for batch, place_V in enumerate(place_BV):
            chosen = balanced_attention(
                row_BN[batch, place_V], int(keep * setting.attention[stage]), setting.extras[stage], keep
            ).tolist()
            if seeded:
                chosen += spatial_seed(_places(sequence, batch, place_V), setting.seed).tolist()
            distance_VV = cosine_distance(sequence.hidden_BND[batch : batch + 1, place_V].float())[0]
            chosen += select_diverse(distance_VV[None], int(keep * setting.diversity[stage]))[0].tolist()
            kept.append(sorted(fill_up(chosen, distance_VV, keep)))
        return sequence.keep_vision(torch.tensor(kept, dtype=torch.long, device=place_BV.device).view(len(kept), keep))


@dataclass
class _Looking(Technique):
    """Notes how far each layer turns the vision tokens, and changes nothing."""

    turns: list[float] = field(default_factory=list)
    last_BVD: Tensor | None = None

    acts_at: ClassVar = ("llm-layer",)

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens as they are."""
        state_BVD = take(at.sequence.hidden_BND, at.sequence.vision_places())
        if self.last_BVD is not None:
            self.turns.append(turn_of(self.last_BVD, state_BVD))
        self.last_BVD = state_BVD
        return at.sequence


@torch.inference_mode()
def _turns(lvlm: Target, sample: Request) -> list[float]:
    """How far each layer but the last turns the vision tokens of a sample."""
    looking = _Looking()
    run = lvlm.begin(sample, [looking])
    inputs = lvlm.prepare(run)
    if not bool(inputs.vision_BN.any()):
        raise ValueError("BTP is calibrated on the vision tokens of samples, and one has none; give it images")
    lvlm.prefill(inputs, run)
    return looking.turns


def _places(sequence: Sequence, batch: int, place_V: Tensor) -> Tensor:
    """Frame, row and column (V, 3) of the vision tokens; one long row where they stand on no known grid."""
    if sequence.place_BN3 is not None:
        place_V3 = sequence.place_BN3[batch, place_V]
        if bool((place_V3 >= 0).all()):
            return place_V3
    column_V = torch.arange(len(place_V), device=place_V.device)
    return torch.stack([torch.zeros_like(column_V), torch.zeros_like(column_V), column_V], dim=1)
