"""Prompt look-up: the draft copies what followed the same n-gram in the prompt or the answer; no draft model.

Source: saxena2023prompt; defaults and choice of the match as in transformers2026, `PromptLookupCandidateGenerator`; the
least n as in vllm2026, `NgramProposer`.
Symbols: `max_matching_ngram_size` → `longest`; `prompt_lookup_min` → `shortest`; `num_output_tokens`,
`num_speculative_tokens` → `gamma`.

Departs:
1. A frame is one token of the text that is searched, not one a vision token, and no frame is ever copied; transformers
   would draft placeholders, which the target rejects.
2. A copy that would run past the tokens asked for is cut only when it is verified.
3. A match that an end token follows at once is passed over for the next; transformers then drafts nothing.

M drafted tokens, N tokens of the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.copying import CopyingDrafter
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.ngram import look_up
from lvlm_atlas.reference.ops.verification import verify  # noqa: F401 - steps of the entry


@dataclass(frozen=True)
class PromptLookup(Technique):
    """Prompt look-up at `decode-loop`.

    Raises:
        ValueError: a parameter out of its range.
    """

    gamma: int = 10
    """Most tokens γ copied in a round."""
    longest: int = 2
    """Largest n-gram that is looked up."""
    shortest: int = 1
    """Smallest n-gram that is looked up."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = ("cache-rollback",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "gamma", "longest", "shortest")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter that copies from this request, accepted losslessly."""
        run = at.run
        ends = (*run.config.placeholders, *run.config.eos_token_ids)

        def copied(token_N: Tensor) -> Tensor:
            return look_up(token_N, self.longest, self.shortest, self.gamma, ends)

        return Speculation(CopyingDrafter(run.request.prompt_N, copied, run.target.vocab_size), RejectionSampling())
