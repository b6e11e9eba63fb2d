"""SparseMM: the few heads that look at what the answer names get most of the cache, by scores found beforehand.

Paper: wang2025sparsemm; head scores as in the official code (`visual_head/qwen_visual_head.py`), budgets and choice as
in `sparsemm/sparsemm_utils.py`.
Symbols: visual score of a head → `score_LG`; share that all heads get alike → `min_ratio`; budget → `base_capacity`.

Departs:
1. The official code finds head scores on pictures of text with a box for each word. A request holds no boxes:
   `calibrate` takes all vision tokens for the box of every token of the answer, so that a head scores by how often it
   looks at the images at all. `hits` is the rule of the official code, for whoever has boxes.
2. Budgets of all heads together are exactly L · G times the mean; the official code rounds each on its own. A head
   keeps at most what there is, as there, so that less is kept of short prompts. If no head ever hits, all are alike.
3. Kept entries stay in reading order, and of equal votes the earlier entry is kept; the official code leaves both to a
   sort that is not stable.
4. Votes are summed in float32; the official code averages over the window, which ranks alike, in the model's type.
5. Behind a cache (another turn of a session), heads that would differ are refused.

B batch, H query heads, G key-value heads, S entries, W entries before the window, L layers, K places of a box, T tokens
of the answer, V vision tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheStep, CacheTokens
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.budget import apportion
from lvlm_atlas.reference.ops.scores import group_heads
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.adakv import select
from lvlm_atlas.reference.techniques.decoding.snapkv import check_window, observe

Box = tuple[Collection[int], Tensor]
"""The token ids of the words in a part of an image, and the places (K,) in the prompt of the vision tokens there."""


def hits(top_TLH: Tensor, tokens: Seq[int], boxes: Seq[Box]) -> Tensor:
    """Score (L, H) of each head: 1 / K for each token of the answer whose box of K places it looks at.

    A token that no box holds, or several do, counts for no head.

    Args:
        top_TLH: where in the prompt each head pays most in the row that gives each token.
        tokens: the tokens of the answer.
        boxes: where their words stand.
    """
    score_LH = torch.zeros(top_TLH.shape[1:], device=top_TLH.device)
    for token, top_LH in zip(tokens, top_TLH, strict=True):
        around = [place_K for words, place_K in boxes if token in words]
        if len(around) == 1 and len(around[0]):
            score_LH += torch.isin(top_LH, around[0]) / len(around[0])
    return score_LH


def head_capacities(score_LG: Tensor, base: int, min_ratio: float) -> Tensor:
    """Entries (L, G) that each head keeps besides the window: ⌊min_ratio · base⌋, and of the rest its share by score.

    All heads together keep L · G · base; equally many where no head has a score.

    Args:
        score_LG: visual scores, none of them negative.
        base: entries that a head keeps on average.
        min_ratio: share of them that every head gets, from 0 to 1.
    """
    least = int(base * min_ratio)
    return apportion(score_LG, (base - least) * score_LG.numel()) + least


@dataclass
class _Looks(Technique):
    """Notes where each head of each layer pays most, for each row that gives a token."""

    places: list[Tensor] = field(default_factory=list)
    """(H,) each, layer by layer, row by row."""
    vision: Tensor | None = None
    """Places of the vision tokens in the prompt."""

    acts_at: ClassVar = ("cache-step",)

    def evict(self, at: CacheStep) -> None:
        row_HS = at.rows(slice(-1, None))[0, :, 0]
        index_GS = at.held.index_BGS[0]
        if self.vision is None:
            self.vision = index_GS[0, at.held.vision_BGS[0, 0]]
        of_head = index_GS.repeat_interleave(len(row_HS) // len(index_GS), dim=0)
        self.places.append(of_head.gather(1, row_HS.argmax(dim=1, keepdim=True))[:, 0])


@torch.inference_mode()
def answered(lvlm: Target, sample: Request) -> tuple[list[int], Tensor, Tensor]:
    """The greedy answer to a sample, where each head looks for each of its tokens (T, L, H), and vision tokens (V,).

    Places are those in the prompt.
    """
    looks = _Looks()
    run = lvlm.begin(sample, [looks])
    prefill = lvlm.prefill(lvlm.prepare(run), run)
    tokens = [int(prefill.logits_C.argmax())]
    while len(tokens) < sample.max_new_tokens and tokens[-1] not in run.config.eos_token_ids:
        logits_1C = lvlm.step(torch.tensor(tokens[-1:]), prefill.cache)
        prefill.cache.retain(torch.zeros(1, dtype=torch.long, device=logits_1C.device))
        tokens.append(int(logits_1C.argmax()))
    top_TLH = torch.stack(looks.places).unflatten(0, (len(tokens), -1))
    place_V = top_TLH.new_empty(0) if looks.vision is None else looks.vision
    return tokens, top_TLH, place_V


@dataclass(frozen=True)
class SparseMM(Technique):
    """SparseMM at `cache-tokens`, by the head scores that `calibrate` finds.

    Raises:
        ValueError: a parameter out of its range.
        Refusal: the window fills the capacity.
    """

    window_size: int = 32
    """Tokens at the end of the prompt that vote; their entries are kept in every head."""
    base_capacity: int = 256
    """Entries that a head keeps of the prompt, on average over all heads, the window among them; a shorter prompt is
    left alone."""
    min_ratio: float = 0.1
    """Share of the mean that every head keeps besides the window; 1 makes all heads alike."""
    kernel_size: int = 5
    """Neighbouring entries whose votes are averaged; odd, 1 pools nothing."""
    calibration: tuple[tuple[float, ...], ...] | None = field(default=None, repr=False)
    """Visual score of each key-value head of each layer."""

    acts_at: ClassVar = ("cache-tokens",)
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence", "calibration-samples", "own-projections")
    withholds: ClassVar = ("equal-frames", "equal-heads")

    def __post_init__(self) -> None:
        check_window(self.window_size, self.base_capacity, self.kernel_size, "avgpool", "mean", "base_capacity")
        self.expect_shares("min_ratio")

    def calibrate(self, lvlm: Target, samples: Seq[Request]) -> Self:
        """The share of each head in all hits, on the model's own greedy answers to the samples.

        Raises:
            ValueError: there is no sample.
        """
        if not samples:
            raise ValueError("SparseMM is calibrated on samples, got none; give it a few requests")
        groups, total = lvlm.begin(samples[0]).config.text.num_key_value_heads, torch.tensor(0.0)
        for sample in samples:
            tokens, top_TLH, place_V = answered(lvlm, sample)
            total = total + hits(top_TLH, tokens, [(tokens, place_V)]).cpu()
        heads = total.shape[1]
        score_LG = group_heads(total[:, :, None], groups)[..., 0] * (heads // groups)
        score_LG = score_LG / score_LG.sum().where(score_LG.sum() > 0, 1)
        return replace(self, calibration=tuple(map(tuple, score_LG.tolist())))

    def compress_cache(self, at: CacheTokens) -> Entries:
        """The entries that the layer caches.

        Raises:
            Refusal: the scores are of another model, or another technique has evicted entries of this layer before.
        """
        groups, length = at.entries.key_BGSd.shape[1:3]
        score_LG = torch.tensor(self.calibration or ())
        if score_LG.shape != (at.layers, groups):
            raise Refusal(
                f"SparseMM is calibrated for {tuple(score_LG.shape)} layers and heads, got {(at.layers, groups)}; "
                f"calibrate it anew"
            )
        if length < self.base_capacity:
            return at.entries
        base, before = self.base_capacity - self.window_size, length - self.window_size
        budget_G = head_capacities(score_LG, base, self.min_ratio)[at.layer].clamp(max=before)
        vote_BGW = observe(at, self.window_size, self.kernel_size, "avgpool", "mean", "SparseMM")
        budget_BG = budget_G.to(vote_BGW.device).expand(vote_BGW.shape[:2])
        return at.entries.keep_where(select(vote_BGW, budget_BG, self.window_size))
