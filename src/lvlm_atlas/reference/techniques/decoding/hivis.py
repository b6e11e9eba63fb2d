"""HiViS: a draft head that reads words alone, beside the target's features, which know the picture.

Paper: xie2025hivis. Both abstracts of the paper were read, and a public review that names the stages; the official code
could not be read.
Symbols: e_text → `embed_ND`; f_text → `feature_ND`; e_seq of draft step s → row s of `step_SD`.

Stand-in: the head is trained by unrolling it on its own features, a residual for each step among its weights. Here all
weights are random.

Departs:
1. Words keep the position ids that they have in the whole prompt; what was read does not say whether gaps are closed.
2. The residual of a step is added to what enters the head's layer, and steps beyond the last one share its residual;
   what was read says that it is a sequential embedding, and not where it enters.
3. Trees grow and are verified as in EAGLE-2, whose defaults these are.
4. A prompt that ends with a picture keeps the feature of its last place, from which the answer is drawn.
5. As in the reference of EAGLE-2: ties, tokens dropped inside the LLM, sessions.

M, N tokens · D width · S steps.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.features import FeatureDraft, Prompt
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter, grow  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.config import TextConfig
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.feature_head import FeatureHead
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.places import places_of
from lvlm_atlas.reference.ops.verification import verify_tree  # noqa: F401 - steps of the entry

STEPS = 8
"""Draft steps that have a residual of their own."""


class SteppedHead(FeatureHead):
    """A head on the target's features that is told which step of a draft it is at."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        self.step_SD = nn.Parameter(torch.zeros(STEPS, config.hidden_size))

    def enter_at(self, embed_MD: Tensor, feature_MD: Tensor, step: int) -> Tensor:
        """What enters the layer (M, D) at a step: 0 beside the target's features, 1, 2, … beside the head's own."""
        return self.enter(embed_MD, feature_MD) + self.step_SD[min(step, STEPS - 1)]


def words_of(prompt: Prompt) -> Prompt:
    """The prompt without its vision tokens; its last place stays, whatever stands there."""
    shown_N = ~prompt.vision_N
    shown_N[-1] = True
    place_K = places_of(shown_N)
    parts = {name: getattr(prompt, name)[place_K] for name in ("embed_ND", "feature_ND", "vision_N", "position_N")}
    return replace(prompt, **parts)


class SteppedDraft(FeatureDraft):
    """A draft by a stepped head; a pass that reads is step 0, each that guesses one more."""

    def __init__(self, target: Target, head: SteppedHead, prompt: Prompt, trace: Trace) -> None:
        self.step = 0

        def enter(embed_MD: Tensor, feature_MD: Tensor) -> Tensor:
            return head.enter_at(embed_MD, feature_MD, self.step)

        rows_RD = enter(prompt.embed_ND[1:], prompt.feature_ND[:-1])
        super().__init__(target, head.layer, enter, rows_RD, prompt.position_N[1:], prompt, trace)

    def read(self, tokens: Seq[int]) -> Tensor:
        """See `Predictor`."""
        self.step = 0
        return super().read(tokens)

    def guess(self, token_M: Tensor, parent_M: Tensor | None = None) -> Tensor:
        """See `Predictor`."""
        self.step += 1
        return super().guess(token_M, parent_M)


@dataclass(frozen=True)
class HiViS(Technique):
    """HiViS at `decode-loop`.

    Raises:
        ValueError: a parameter below 1.
    """

    nodes: int = 59
    """Most tokens N of a tree."""
    depth: int = 6
    """Most tokens of a path, and passes of the head in a round."""
    top_k: int = 10
    """Children k of a node that is expanded, and nodes that are expanded on each level."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = (
        "draft-model",
        "training-data",
        "llm-states",
        "modality-mask",
        "vision-in-sequence",
        "tree-attention",
        "cache-rollback",
    )

    def __post_init__(self) -> None:
        self.expect_at_least(1, "nodes", "depth", "top_k")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter of this request, its head prefilled with the words of the prompt."""
        run = at.run
        head = module_of(run, "hivis", lambda: SteppedHead(run.config.text))
        draft = SteppedDraft(run.target, head, words_of(Prompt.of(run.target, at.prefill)), run.trace)
        return Speculation(GrowingTreeDrafter(draft, self.nodes, self.depth, self.top_k), RejectionSampling())
