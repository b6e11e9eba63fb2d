"""Tree drafting and verification: a one-layer head on the target's features grows a tree, one target pass checks it.

Papers: li2024eagle2 (the tree grows by the draft's confidence) and li2024eagle (the head; the rule by which a tree is
verified when sampling); SafeAILab/EAGLE, eagle/model/cnets1.py and utils.py (`topK_genrate`, `evaluate_posterior`).
Symbols: `total_tokens` − 1 → `nodes`, N; `depth` + 1 → `depth`, D; k → `top_k`; f → `feature_ND`; e → `embed_ND`.

Departs:
1. The head's weights are random; the official ones are trained on the target's own answers.
2. Of equal scores the earlier candidate goes first. The official code leaves that to the sort, and may then keep a node
   without its parent.
3. Tokens that another technique of the stack dropped inside the LLM have no feature; theirs is zero.
4. In a session the head reads the round's prompt alone.

M drafted tokens · D width · C vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.features import FeatureDraft, Prompt
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter, children_of, grow  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.feature_head import FeatureHead
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.verification import verify_tree  # noqa: F401 - steps of the entry


@dataclass(frozen=True)
class TreeVerification(Technique):
    """EAGLE-2 at `decode-loop`.

    Raises:
        ValueError: a parameter below 1.
    """

    nodes: int = 59
    """Most tokens N of a tree."""
    depth: int = 6
    """Most tokens D of a path, and passes of the head in a round."""
    top_k: int = 10
    """Children k of a node that is expanded, and nodes that are expanded on each level."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = ("draft-model", "llm-states", "tree-attention", "cache-rollback")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "nodes", "depth", "top_k")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter of this request, its head prefilled with the prompt; trees are accepted losslessly."""
        run = at.run
        head = module_of(run, "feature-head", lambda: FeatureHead(run.config.text))
        prompt = Prompt.of(run.target, at.prefill)
        rows_ND = head.enter(prompt.embed_ND[1:], prompt.feature_ND[:-1])
        draft = FeatureDraft(run.target, head.layer, head.enter, rows_ND, prompt.position_N[1:], prompt, run.trace)
        return Speculation(GrowingTreeDrafter(draft, self.nodes, self.depth, self.top_k), RejectionSampling())
