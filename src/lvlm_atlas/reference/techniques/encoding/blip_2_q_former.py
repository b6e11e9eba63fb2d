"""BLIP-2's Q-Former: a few learned queries read the image in a small BERT, and they alone reach the LLM.

Paper: li2023blip2; code: salesforce/LAVIS, lavis/models/blip2_models/blip2.py (`init_Qformer`),
blip2_opt.py (`ln_vision`, `opt_proj`), Qformer.py.

Symbols: num_query_token → queries, hidden_size → width, num_attention_heads → heads, num_hidden_layers → layers,
cross_attention_freq → cross_every.

Departs:
1. The features are those that the model's own adapter would get: LLaVA's without the class token, which the authors
   leave in.
2. The tokens stand where the placeholder of the image stands; the authors put them before the text.
3. The weights are random unless trained ones are given; dropout, which acts in training alone, is not here.

F frames, S features, C their width, M queries, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.modules.qformer import QFormer
from lvlm_atlas.reference.refusal import Refusal


class QueryingAdapter(nn.Module):
    """A norm of the features, the Q-Former, and a linear layer to the width of the LLM."""

    def __init__(self, channels: int, out: int, setting: Blip2QFormer) -> None:
        super().__init__()
        self.vision_norm = nn.LayerNorm(channels)
        self.qformer = QFormer(
            setting.queries, setting.width, setting.heads, setting.layers, channels, cross_every=setting.cross_every
        )
        self.linear = nn.Linear(setting.width, out)

    def forward(self, patch_FSC: Tensor) -> Tensor:
        """(F, S, C) → (F, M, D)."""
        out_FMD: Tensor = self.linear(self.qformer(self.vision_norm(patch_FSC)))
        return out_FMD


@dataclass(frozen=True)
class Blip2QFormer(Technique):
    """At `adapter`: `queries` vision tokens of each frame, however many patches it has.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `width` is no multiple of `heads`.
    """

    queries: int = 32
    width: int = 768
    heads: int = 12
    layers: int = 12
    cross_every: int = 2

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "frames-apart")
    withholds: ClassVar = ("whole-grid",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "queries", "width", "heads", "layers", "cross_every")
        if self.width % self.heads:
            raise Refusal(f"width must be a multiple of the {self.heads} heads, got {self.width}")

    def begin(self, run: Run) -> Any:
        """The adapter with its weights."""
        widths = run.config.vision.hidden_size, run.config.text.hidden_size
        return _Acting(module_of(run, self, lambda: QueryingAdapter(*widths, self)))


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    adapter: QueryingAdapter

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F, M, D)."""
        out_FMD: Tensor = self.adapter(at.hidden_FND)
        return out_FMD
