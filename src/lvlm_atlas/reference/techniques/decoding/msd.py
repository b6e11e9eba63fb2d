"""MSD: a draft head that reads words beside the target's features, and vision tokens as they are.

Paper: lin2025msd; the head as in the official code (EAGLE/eagle/model/cnets.py, `Model.forward`), trees and their
verification as in EAGLE-2, which it builds on.
Symbols: `total_token` − 1 → `nodes`, N; `depth` + 1 → `depth`; k → `top_k`; f → `feature_MD`; e, v → `embed_MD`.

Departs:
1. The head's weights are random; the official ones are trained, text first, then more and more images.
2. Several images are read like one; the official code places a single one.
3. The number of nodes is given; the official code may choose among five by timing the target (`total_token` −1).
4. As in the reference of EAGLE-2: ties, tokens dropped inside the LLM, sessions.

M, N tokens · D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.features import FeatureDraft, Prompt
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter, grow  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.feature_head import FeatureHead
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.verification import verify_tree  # noqa: F401 - steps of the entry


def decouple(
    enter: Callable[[Tensor, Tensor], Tensor], embed_MD: Tensor, feature_MD: Tensor, vision_M: Tensor
) -> Tensor:
    """What enters the head's layer (M, D): a vision token as it is, a word joined with the feature before it.

    Args:
        enter: joins embeddings and features (M, D).
        embed_MD: of the tokens.
        feature_MD: of the places before them.
        vision_M: True where a token is visual.
    """
    return embed_MD.where(vision_M[:, None], enter(embed_MD, feature_MD))


@dataclass(frozen=True)
class Msd(Technique):
    """MSD at `decode-loop`.

    Raises:
        ValueError: a parameter below 1.
    """

    nodes: int = 58
    """Most tokens N of a tree."""
    depth: int = 6
    """Most tokens of a path, and passes of the head in a round."""
    top_k: int = 10
    """Children k of a node that is expanded, and nodes that are expanded on each level."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = (
        "draft-model",
        "llm-states",
        "modality-mask",
        "vision-in-sequence",
        "tree-attention",
        "cache-rollback",
    )

    def __post_init__(self) -> None:
        self.expect_at_least(1, "nodes", "depth", "top_k")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter of this request, its head prefilled with the prompt; trees are accepted losslessly."""
        run = at.run
        head = module_of(run, "msd", lambda: FeatureHead(run.config.text))
        prompt = Prompt.of(run.target, at.prefill)
        rows_ND = decouple(head.enter, prompt.embed_ND[1:], prompt.feature_ND[:-1], prompt.vision_N[1:])
        draft = FeatureDraft(run.target, head.layer, head.enter, rows_ND, prompt.position_N[1:], prompt, run.trace)
        return Speculation(GrowingTreeDrafter(draft, self.nodes, self.depth, self.top_k), RejectionSampling())
