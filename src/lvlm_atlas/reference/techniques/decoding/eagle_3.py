"""EAGLE-3: a draft head on a fusion of the target's low, middle and high states, with a vocabulary head of its own.

Paper: li2025eagle3; the head as in the official code (eagle/model/cnets.py), the three states as in
eagle/model/modeling_llama_kv.py; trees and their verification as in EAGLE-2, which it builds on.
Symbols: `total_tokens` − 1 → `nodes`, N; `depth` + 1 → `depth`; k → `top_k`.

Departs:
1. The head's weights are random; the official ones are trained with drafts fed back (training-time test).
2. The head's vocabulary is the whole one; the official code may keep frequent tokens alone.
3. Where the LLM has so few layers that an index lies outside, the nearest layer stands in.
4. As in the reference of EAGLE-2: ties, tokens dropped inside the LLM, sessions. A token that a layer did not see has 0
   for its state.

M, N tokens · L layers · D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.features import FeatureDraft, Prompt, in_place
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter, grow  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.fused_head import FusedHead
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.verification import verify_tree  # noqa: F401 - steps of the entry


def fused_layers(layers: int) -> tuple[int, int, int]:
    """The layers whose inputs are fused, of a model of so many: the third, the middle one, the third from the end."""
    low, middle, high = (min(max(0, index), layers - 1) for index in (2, layers // 2, layers - 3))
    return low, middle, high


@dataclass(frozen=True)
class Eagle3(Technique):
    """EAGLE-3 at `decode-loop`.

    Raises:
        ValueError: a parameter below 1.
    """

    nodes: int = 59
    """Most tokens N of a tree."""
    depth: int = 8
    """Most tokens of a path, and passes of the head in a round."""
    top_k: int = 10
    """Children k of a node that is expanded, and nodes that are expanded on each level."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = ("draft-model", "layer-states", "tree-attention", "cache-rollback")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "nodes", "depth", "top_k")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter of this request, its head prefilled with the prompt; trees are accepted losslessly."""
        run = at.run
        head = module_of(run, "eagle-3", lambda: FusedHead(run.config.text))
        which = fused_layers(run.config.text.num_hidden_layers)
        feature_BND = head.fuse([in_place(at.prefill, *at.prefill.states[layer]) for layer in which])
        prompt = Prompt.with_features(at.prefill, feature_BND)

        def features(states: tuple[Tensor, ...]) -> Tensor:
            return head.fuse([states[layer] for layer in which])

        rows = head.enter(prompt.embed_ND[1:], prompt.feature_ND[:-1])
        draft = FeatureDraft(
            run.target, head, head.enter, rows, prompt.position_N[1:], prompt, run.trace, features=features,
            logits=head.logits,
        )  # fmt: skip
        return Speculation(GrowingTreeDrafter(draft, self.nodes, self.depth, self.top_k), RejectionSampling())
