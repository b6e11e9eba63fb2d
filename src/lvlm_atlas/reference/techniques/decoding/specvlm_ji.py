"""SpecVLM: a draft that sees a tenth of the video, chosen by the target's attention, drafts a tree of tokens.

Paper: ji2025specvlm; selection, trees (`mc_sim_7b_63` of 25 nodes, `chain` of 5) and greedy acceptance as in the
official code (`utils/utils.py`, `tree_choices/choices.py`, `decoding/tree_decoding.py`).
Symbols: drop → `drop_rate`; attention mass θ, `percentage` in the code → `mass`; N_v → V; kept tokens → K.

Departs:
1. The target prefills in one pass and its text rows are formed again from queries and keys; the official code
   runs a second pass over the text with attention returned. The rows are the same.
2. Attention is averaged in float32; the official code averages what the model's type leaves of it.
3. Between rounds the draft keeps its entry of the last verified token; the official code computes it again.
4. Tokens that another technique of the stack pruned in some layer of the target count 0 in that layer.

B batch · H heads · R text rows · N tokens of a layer · V vision tokens · K kept · M drafted tokens · C vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.drafting.acceptance import GreedyMatch
from lvlm_atlas.reference.drafting.draft import Draft, draft_prompt
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.drafting.tree import Shape, TreeDrafter
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.draft_model import draft_model
from lvlm_atlas.reference.ops.places import mask_of, places_of
from lvlm_atlas.reference.ops.verification import accept  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.refusal import Refusal

TREE: Shape = ((4,), (3, 2, 2, 1), (3, 2, 2, 1), (3,), (2,))
"""25 nodes, 5 deep."""
CHAIN: Shape = ((1,),) * 5
"""5 nodes in a row."""


def mean_attention(layers: Iterable[tuple[Tensor, Tensor]], places: int) -> Tensor:
    """Attention (B, places) that each place of the prompt gets: mean over layers, heads and rows.

    Args:
        layers: of each layer softmax rows (B, H, R, N) and the place (B, N) of each column in the prompt;
            a place that a layer lacks gets nothing there.
        places: tokens of the prompt.
    """
    received = [
        weight_BHRN.new_zeros(len(index_BN), places).scatter(1, index_BN, weight_BHRN.mean(1).mean(1))
        for weight_BHRN, index_BN in layers
    ]
    return torch.stack(received).sum(0) / len(received)


def tokens_for_mass(score_V: Tensor, mass: float, limit: int) -> int:
    """The least number of tokens, greatest first, whose scores reach `mass` of the sum; 1 to `limit`, 0 if that is 0.

    Sums run in the type of the scores, one after the other, as in the official code.
    """
    goal, reached = score_V.sum() * mass, score_V.new_zeros(())
    for count, score in enumerate(score_V.sort(descending=True).values[:limit], start=1):
        reached = reached + score
        if reached >= goal:
            return count
    return limit


def two_stage_select(score_BV: Tensor, keep: int, mass: float) -> Tensor:
    """Ranks (B, K) of the vision tokens to keep, ascending.

    Stage I takes the best tokens until they hold `mass` of all score, `keep` at most. Stage II fills up from
    the others in their order, at indices floor(linspace(0, others − 1, rest)).

    Args:
        score_BV: attention of each vision token.
        keep: K.
        mass: θ, from 0 to 1; stage I takes one token at least.
    """
    rows = []
    for score_V in score_BV.float().cpu():  # where the official code sorts: ties fall and sums round alike
        first = tokens_for_mass(score_V, mass, keep)
        best = score_V.sort(descending=True).indices[:first]
        kept_V = mask_of(best, len(score_V))
        others = places_of(~kept_V)
        kept_V[others[torch.linspace(0, max(0, len(others) - 1), keep - first, dtype=torch.long)]] = True
        rows.append(places_of(kept_V))
    return torch.stack(rows).to(score_BV.device)


@dataclass(frozen=True)
class SpecVlmJi(Technique):
    """SpecVLM at `decode-loop`, greedy.

    Raises:
        ValueError: a parameter out of its range.
    """

    drop_rate: float = 0.9
    """Share of the vision tokens that the draft does not see."""
    mass: float = 0.4
    """Share θ of the attention that stage I gathers."""
    tree: bool = True
    """Whether to draft the tree of 25 tokens; otherwise a chain of 5."""
    draft: Target | None = field(default=None, repr=False)
    """The draft model; None takes the one that was given to the model of the run, else the target itself."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = (
        "draft-model",
        "same-vocabulary",
        "attention-row",
        "modality-mask",
        "vision-in-sequence",
        "tree-attention",
        "cache-rollback",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"drop_rate must be in [0, 1), got {self.drop_rate}")
        self.expect_shares("mass")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter of this request, its draft prefilled with the pruned prompt.

        Raises:
            Refusal: the request is sampled; and as in `prune`.
        """
        if at.run.request.temperature != 0:
            raise Refusal(f"SpecVlmJi verifies greedily, so temperature must be 0, got {at.run.request.temperature}")
        return Speculation(TreeDrafter(self.prune(at), TREE if self.tree else CHAIN), GreedyMatch())

    def prune(self, at: DecodeLoop) -> Draft:
        """The draft model, its cache filled from the prompt with the chosen vision tokens alone.

        Raises:
            Refusal: draft and target see different numbers of vision tokens; no text follows the last vision token.
        """
        run, request, prefill = at.run, at.run.request, at.prefill
        small = draft_model(self.draft, run)
        model, prompt = draft_prompt(small, run.target, request, run.techniques, prefill.inputs)
        vision, ours = (inputs.vision_places().shape[1] for inputs in (prefill.inputs, prompt))
        if vision != ours:
            raise Refusal(f"draft and target must see equally many vision tokens, got {ours} and {vision}")
        if vision == 0:
            return Draft(model, prompt, run.trace)  # an earlier technique has left nothing to choose from
        rank_BK = two_stage_select(self.score(prefill), int(vision * (1 - self.drop_rate)), self.mass)
        # Contiguous positions: the draft's text stands closer to its vision tokens than the target's.
        pruned = prompt.keep_vision(rank_BK.to(model.device)).renumber()
        return Draft(model, pruned, run.trace)

    def score(self, prefill: Prefill) -> Tensor:
        """Mean attention (B, V) from the text after the last vision token to each vision token."""
        inputs = prefill.inputs
        vision_BV = inputs.vision_places()
        text_rows = inputs.length - 1 - int(vision_BV.max())
        if text_rows == 0:
            raise Refusal("SpecVlmJi needs text after the last vision token, got none")
        tail = slice(-text_rows, None)
        places = int(inputs.index_BN.max()) + 1
        layers = ((probe.rows(tail), index_BN) for probe, index_BN in prefill.attention)
        return mean_attention(layers, places).gather(1, inputs.index_BN.gather(1, vision_BV))
