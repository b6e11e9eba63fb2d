"""ICCTP: patches that the class token looks at, and of the others the best around each noun of the question.

Paper: yu2026icctp, sec. Instruction-Guided Cross-Modal Clustering Token Pruning, eqs. 5–13 and algorithm 1; no code is
released. Symbols: n_a → `tokens`; ρ_g → `global_share`; α → `alpha`; G → the global patches; R → the others; c_j →
centre; π → group; s → score; k_j → quotas.

Departs:
1. No tagger of parts of speech runs here: every token of the question is a noun phrase of its own. The paper takes the
   noun phrases that spaCy finds, each by the mean of its tokens' embeddings.
2. Each frame or tile keeps `tokens` exactly. ρ_c is what is left of the budget over what is left of the patches;
   quotas, rounded down and one at least, miss the budget by a few. Patches within them come first, the better first,
   then the others; the paper does not say how its tables come to 128, 64 and 32.
3. k_g is ⌊ρ_g · n_a⌋, as in the text; algorithm 1 takes the share of all patches instead, which may exceed the budget.
4. ã, of which the paper says that it lies in [0, 1], is a frame's attention stretched between its least and greatest.
5. Cosines are those of the adapter's tokens, so that all patches pass the adapter on the side and the kept ones once
   more; the paper drops tokens behind it. They are the same, for the adapter takes each patch on its own.
6. Of equal scores the earlier patch stays.

F frames, H heads, N patches without the class token, J centres, K kept, D width of the LLM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.class_token import class_attention, expect_class_token
from lvlm_atlas.reference.ops.places import mask_of
from lvlm_atlas.reference.ops.selection import rank_in_group, top_places
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


def clusters(token_FND: Tensor, centre_JD: Tensor) -> tuple[Tensor, Tensor]:
    """The centre of greatest cosine for each token (F, N), of equals the first, and that cosine (eqs. 8–10)."""
    cosine_FNJ = unit(token_FND) @ unit(centre_JD).mT
    best_FN = cosine_FNJ.argmax(dim=-1)
    return best_FN, cosine_FNJ.gather(2, best_FN[..., None])[..., 0]


def quotas(group_FN: Tensor, counts_FN: Tensor, share: float, groups: int) -> Tensor:
    """What each group of a frame keeps (F, J): ⌊ρ_c · its tokens⌋, one at least (eq. 12).

    Args:
        group_FN: the group of each token.
        counts_FN: False at tokens that belong to none.
        share: ρ_c.
        groups: J.
    """
    size_FJ = (functional.one_hot(group_FN, groups) * counts_FN[..., None]).sum(dim=1)
    return (size_FJ * share).floor().long().clamp(min=1)


def icctp(
    token_FND: Tensor, attention_FN: Tensor, centre_JD: Tensor, tokens: int, global_share: float, alpha: float
) -> Tensor:
    """Places (F, K), ascending, of the kept tokens; K = min(`tokens`, N).

    Args:
        token_FND: vision tokens in the embedding space of the LLM, float32 or wider.
        attention_FN: what the class token pays to each, mean over heads.
        centre_JD: embeddings of the noun phrases, one at least.
        tokens: n_a.
        global_share: ρ_g, of the kept ones, which are chosen by attention alone.
        alpha: α, how much the cosine counts against the attention.
    """
    keep = min(tokens, token_FND.shape[1])
    most = int(global_share * keep)
    global_FN = mask_of(top_places(attention_FN, most), token_FND.shape[1])
    group_FN, cosine_FN = clusters(token_FND, centre_JD)
    low_F1, high_F1 = (end(attention_FN, dim=1, keepdim=True) for end in (torch.amin, torch.amax))
    stretched_FN = (attention_FN - low_F1) / (high_F1 - low_F1).where(high_F1 > low_F1, 1)
    score_FN = alpha * cosine_FN + (1 - alpha) * stretched_FN
    share = (keep - most) / max(1, token_FND.shape[1] - most)
    quota_FJ = quotas(group_FN, ~global_FN, share, len(centre_JD))
    # The global patches are a group of their own.
    rank_FN = rank_in_group(score_FN, group_FN.masked_fill(global_FN, len(centre_JD)))
    within_FN = (rank_FN < quota_FJ.gather(1, group_FN)) & ~global_FN
    others_FN = score_FN.masked_fill(global_FN, float("-inf"))
    chosen_FK = top_places(others_FN, keep - most, first=within_FN)
    return top_places((global_FN | mask_of(chosen_FK, token_FND.shape[1])).float(), keep)


@dataclass(frozen=True)
class Icctp(Technique):
    """At `encoder-output`: leaves `tokens` patches of each frame or tile, in the order of the image.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    tokens: int = 64
    global_share: float = 0.6
    alpha: float = 0.3

    acts_at: ClassVar = ("encoder-output",)
    needs: ClassVar = ("encoder-attention", "cls-token", "visual-features", "free-patches", "frames-apart")
    withholds: ClassVar = ("cls-token", "whole-grid")

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")
        for name in ("global_share", "alpha"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    def begin(self, run: Run) -> Pruning:
        """What acts in a run."""
        return Pruning(self, run)


@dataclass(frozen=True)
class Pruning:
    """ICCTP with the run, which has the question and the adapter."""

    setting: Icctp
    run: Run

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The kept patches, without the class token.

        Raises:
            Refusal: there is not one class token, an earlier technique left no attention, or there is no text yet.
        """
        patches, setting = at.patches, self.setting
        expect_class_token(patches, "ICCTP")
        if setting.tokens >= patches.hidden_FND.shape[1] - 1:
            return patches
        if not len(self.run.request.text_N):
            raise Refusal("ICCTP chooses by the question, and these frames come without text; give both together")
        attention_FN = class_attention(patches, "ICCTP").mean(dim=1)
        token_FND = self.run.target.adapt(patches.hidden_FND[:, 1:]).float()
        centre_JD = self.run.question_ND.float()
        kept_FK = icctp(token_FND, attention_FN, centre_JD, setting.tokens, setting.global_share, setting.alpha)
        return replace(patches.keep(1 + kept_FK), prefix=0, attention=None)
