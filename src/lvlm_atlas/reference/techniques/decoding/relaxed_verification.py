"""Relaxed verification: a drafted token that the target would not have said is accepted by chance.

Paper: zhang2026survey, app. D.2 (random relaxation of strict matching, on SpecVLM's pruned draft, chains of 10).
Symbols: acceptance probability p on a mismatch → `relaxation`; drafted tokens a round γ → `gamma`; `drop_rate` and
`mass` as in ji2025specvlm.

Departs:
1. The appendix relaxes greedy decoding. Here requests may be sampled: a token that lossless sampling rejects is
   accepted with probability p, and tokens follow (1 − p)·target + p·draft; at temperature 0 that is its rule.
2. A token that ends the answer is never accepted by relaxation, which would cut answers short by chance; the appendix
   does not say.
3. One number is drawn a drafted token, also where target and draft agree; the law is the same.

M drafted tokens · C vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.drafting.tree import TreeDrafter
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.verification import relaxed, verify  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.techniques.decoding.specvlm_ji import SpecVlmJi


@dataclass(frozen=True)
class RelaxedVerification(Technique):
    """Relaxed verification of SpecVLM's drafts at `decode-loop`.

    Raises:
        ValueError: a parameter out of its range.
    """

    relaxation: float = 0.5
    """Probability p that a token is accepted which strict verification rejects; 0 is strict."""
    gamma: int = 10
    """Tokens γ drafted in a round."""
    drop_rate: float = 0.9
    """Share of the vision tokens that the draft does not see."""
    mass: float = 0.4
    """Share θ of the attention that the choice of the draft's vision tokens gathers first."""
    draft: Target | None = field(default=None, repr=False)
    """The draft model; None takes the one that was given to the model of the run, else the target itself."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = (
        "draft-model",
        "same-vocabulary",
        "attention-row",
        "modality-mask",
        "vision-in-sequence",
        "cache-rollback",
    )

    def __post_init__(self) -> None:
        self.expect_at_least(1, "gamma")
        RejectionSampling(self.relaxation)
        self._pruning()

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """SpecVLM's draft model, which drafts its likeliest tokens in a chain, and the relaxed rule.

        Raises:
            Refusal: as in `SpecVlmJi.prune`.
        """
        drafter = TreeDrafter(self._pruning().prune(at), ((1,),) * self.gamma)
        return Speculation(drafter, RejectionSampling(self.relaxation, strict=at.run.config.eos_token_ids))

    def _pruning(self) -> SpecVlmJi:
        return SpecVlmJi(self.drop_rate, self.mass, draft=self.draft)
