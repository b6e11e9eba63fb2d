"""Spec-LLaVA: a small LVLM drafts a tree that is cut back to its likeliest paths each time that it has grown.

Paper: huo2025specllava, abstract; the tree as in the first author's code (huo2024empirical,
GreedySTree_fast_llava_dy.py, `update_tree_with_logits` and `prune_tree`), which the paper does not name.
Symbols: `keep` → `nodes`, N; `draft_step` → `depth`, D; 31 → `top_k`, k.

Departs:
1. A path is scored by its log-probability. The code adds raw logits, which favours deep paths whatever they say and can
   keep a node whose parent it drops.
2. Each node is expanded once; the code leaves one of them out when it marks them, and expands it twice.
3. The draft reads new nodes alone; the code reads the whole tree at each step, and once more when it is done.
4. The code draws the target's token at each node and walks on while it was drafted. Here children are tried one after
   the other: either keeps the target's distribution, and they are accepted as often.
5. The draft is any model of the same vocabulary, or the target itself; the official one is distilled from the target.

M drafted tokens · C vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.draft import Draft, draft_prompt
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter, grow_and_prune
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.draft_model import draft_model
from lvlm_atlas.reference.ops.verification import verify_tree  # noqa: F401 - steps of the entry


@dataclass(frozen=True)
class SpecLlava(Technique):
    """Spec-LLaVA at `decode-loop`.

    Raises:
        ValueError: a parameter below 1.
    """

    nodes: int = 127
    """Tokens N of a tree."""
    depth: int = 7
    """Most tokens D of a path, and most passes of the draft in a round."""
    top_k: int = 31
    """Children k of each node that is expanded."""
    draft: Target | None = field(default=None, repr=False)
    """The draft model; None takes the one that was given to the model of the run, else the target itself."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = ("draft-model", "same-vocabulary", "tree-attention", "cache-rollback")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "nodes", "depth", "top_k")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter of this request, its draft prefilled with the whole prompt; trees are accepted losslessly."""
        run = at.run
        small = draft_model(self.draft, run)
        model, prompt = draft_prompt(small, run.target, run.request, run.techniques, at.prefill.inputs)
        draft = Draft(model, prompt, run.trace)
        drafter = GrowingTreeDrafter(draft, self.nodes, self.depth, self.top_k, grow_and_prune)
        return Speculation(drafter, RejectionSampling())
