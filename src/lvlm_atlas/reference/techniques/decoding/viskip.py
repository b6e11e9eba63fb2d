"""ViSkip: no drafting at a step that looks at the picture.

Paper: shen2026mmspec; gate and threshold as in the official variants (`method/msd_vskip/ea_model.py`,
`method/sam_vskip/spec_model.py`), read in a public fork of the repository (fanyunfeng-bit/MMSpec-fyf at 167d04c).
Symbols: `visual_attn_threshold` → `threshold`; visual attention ratio → `vision_share`; drafted tokens γ → `gamma`.

Departs:
1. It is shown beside the chain of a draft model, as in speculative sampling; the authors put it beside MSD, ViSpec and
   a suffix automaton.
2. Heads of the last layer are formed again for one row a round; the official code has the model return all attention.
3. Every round that drafts is looked at (`visual_probe_interval` 1), and answers that repeat themselves go on.

B batch · H heads · G groups · R rows · S entries.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.chain import ChainDrafter
from lvlm_atlas.reference.drafting.draft import Draft, draft_prompt
from lvlm_atlas.reference.drafting.rounds import Drafter, Proposal, Speculation, Verified
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.lvlm.contexts import CacheStep, DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.draft_model import draft_model
from lvlm_atlas.reference.ops.attention import mask_of_heads
from lvlm_atlas.reference.ops.verification import verify  # noqa: F401 - steps of the entry


def vision_share(row_BHRS: Tensor, vision_BGS: Tensor) -> Tensor:
    """Share () of the attention of the last row that goes to vision tokens, mean over heads.

    Args:
        row_BHRS: softmax rows.
        vision_BGS: True where an entry is visual.
    """
    last_BHS = row_BHRS[:, :, -1]
    return last_BHS.masked_fill(~mask_of_heads(vision_BGS, last_BHS.shape[1]), 0).sum(-1).mean()


class GatedDrafter(Drafter):
    """Proposes what another drafter does, or nothing for one round after a round that is skipped.

    Args:
        drafter: the other one.
        vocabulary: tokens of the vocabulary.
    """

    def __init__(self, drafter: Drafter, vocabulary: int) -> None:
        self.drafter, self._nothing = drafter, Proposal.none(vocabulary)
        self.skips = False
        """Whether the round is one without drafts."""
        self.looks = False
        """Whether the token accepted last looked at the picture."""

    def propose(self, tokens: Seq[int]) -> Proposal:
        """See `Drafter`."""
        self.skips, self.looks = self.looks, False
        return self._nothing if self.skips else self.drafter.propose(tokens)

    def settle(self, verified: Verified) -> None:
        """See `Drafter`: a skipped round leaves nothing to take back."""
        if not self.skips:
            self.drafter.settle(verified)


class _Gate:
    """State of a run: the drafter, and where to look."""

    def __init__(self, technique: ViSkip) -> None:
        self.technique = technique
        self.drafter: GatedDrafter | None = None

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """A chain of the draft model behind the gate."""
        run, request = at.run, at.run.request
        small = draft_model(self.technique.draft, run)
        model, prompt = draft_prompt(small, run.target, request, run.techniques, at.prefill.inputs)
        # Not the verifier's stream, which starts from `seed`: a draft drawn with the numbers that judge it is biased.
        generator = torch.Generator().manual_seed(~request.seed)
        chain = ChainDrafter(Draft(model, prompt, run.trace), self.technique.gamma, request.distribution, generator)
        self.drafter = GatedDrafter(chain, run.target.vocab_size)
        return Speculation(self.drafter, RejectionSampling())

    def evict(self, at: CacheStep) -> None:
        """Look where the token accepted last looked, in the last layer, after a round with drafts; all entries stay."""
        if at.prompt or at.layer < at.layers - 1 or self.drafter is None or self.drafter.skips:
            return
        share = vision_share(at.rows(slice(at.new - 1, None)), at.held.vision_BGS)
        self.drafter.looks = float(share) >= self.technique.threshold


@dataclass(frozen=True)
class ViSkip(Technique):
    """Speculative sampling at `decode-loop` that a look at the picture, at `cache-step`, interrupts.

    Raises:
        ValueError: a parameter out of its range.
    """

    threshold: float = 0.35
    """Share of the last layer's attention on vision tokens from which on the next round has no drafts."""
    gamma: int = 4
    """Tokens γ drafted in a round."""
    draft: Target | None = field(default=None, repr=False)
    """The draft model; None takes the one that was given to the model of the run, else the target itself."""

    acts_at: ClassVar = ("cache-step", "decode-loop")
    needs: ClassVar = ("draft-model", "same-vocabulary", "attention-row", "modality-mask", "cache-rollback")

    def __post_init__(self) -> None:
        self.expect_shares("threshold")
        self.expect_at_least(1, "gamma")

    def begin(self, run: Run) -> _Gate:  # noqa: ARG002
        """A gate that is open."""
        return _Gate(self)
