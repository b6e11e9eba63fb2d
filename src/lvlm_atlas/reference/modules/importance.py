"""A trained scorer: how important each vision token is, as its queries and keys among the vision tokens tell.

Paper: zhu2025visionselector; code: YF-T/IDPruner, pretrained_selector/Extracted_Selector_Llava1.5-7B/selector_origin.py
(`TransformerScorer`), which is its scorer taken out of the released models.

B batch, V vision tokens, D width, W width of queries and keys.
"""

from __future__ import annotations

from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.modules.kept import module_of


class ImportanceScorer(nn.Module):
    """The mean logit of each token's query over the keys of all, itself among them; no softmax.

    Args:
        width: D.
        inner: W; half of D for the models of Qwen2.5-VL, and 1792 for LLaVA-1.5-7B with D = 4096.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)

    def forward(self, x_BVD: Tensor) -> Tensor:
        """(B, V, D) → (B, V)."""
        # The mean over keys of all products is the product with their mean, so that no map is formed.
        query_BVW, key_B1W = self.q_proj(x_BVD), self.k_proj(x_BVD).mean(dim=1, keepdim=True)
        score_BV: Tensor = (query_BVW * key_B1W).sum(dim=-1) * self.q_proj.out_features**-0.5
        return score_BV


def importance_scorer(run: Run) -> ImportanceScorer:
    """The scorer that the model of a run keeps; with random weights unless trained ones are given to it."""
    width = run.config.text.hidden_size
    return module_of(run, ImportanceScorer, lambda: ImportanceScorer(width, width // 2))
