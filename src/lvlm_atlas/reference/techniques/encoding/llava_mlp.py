"""LLaVA-1.5's adapter: an MLP on each patch alone, as many tokens as patches.

Paper: liu2024llava15; code: haotian-liu/LLaVA, llava/model/multimodal_projector/builder.py (`build_vision_projector`).

Symbols: the number in `mlp2x_gelu` → depth; `linear` is a depth of 1.

Departs:
1. The encoder is that of the model, so that features come from the layer that it uses; the authors take CLIP's last
   but one, as the reference LLaVA does.
2. The weights are random unless trained ones are given: those of the model's own adapter would be at a depth of 2.

F frames, N patches, C channels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.kept import module_of


class PatchMlp(nn.Module):
    """Linear layers with GELU between them, the first from the encoder's width to that of the LLM."""

    def __init__(self, channels: int, out: int, depth: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(out if layer else channels, out) for layer in range(depth))

    def forward(self, patch_FNC: Tensor) -> Tensor:
        """(F, N, C) → (F, N, D)."""
        x: Tensor = patch_FNC
        for layer, linear in enumerate(self.linears):
            x = linear(functional.gelu(x) if layer else x)
        return x


@dataclass(frozen=True)
class LlavaMlp(Technique):
    """At `adapter`: a vision token for each patch.

    Raises:
        ValueError: `depth` is below 1.
    """

    depth: int = 2

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "depth")

    def begin(self, run: Run) -> Any:
        """The adapter with its weights."""
        widths = run.config.vision.hidden_size, run.config.text.hidden_size
        return _Acting(module_of(run, self, lambda: PatchMlp(*widths, self.depth)))


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    mlp: PatchMlp

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F, N, D)."""
        out_FND: Tensor = self.mlp(at.hidden_FND)
        return out_FND
