"""MobileVLM V2's projector LDPv2: an MLP on each patch, an average pool, and a convolution that says where a token is.

Paper: chu2024mobilevlm; code: Meituan-AutoML/MobileVLM, mobilevlm/model/vision_projector.py (`LDPNetV2Projector`:
`FeatureIRLayer`, `TokenDownLayer`, `PosInjectLayer`).

Symbols: the shape (12, 12) of the code's pool → side.

Departs:
1. Encoder and LLM are those of the model; MobileVLM V2 itself has CLIP and an LLM of 1.4, 2.7 or 7 billion parameters.
2. The weights are random unless trained ones are given.

F frames, H rows and W columns of patches, N patches, C channels, M tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.grid import square_side
from lvlm_atlas.reference.modules.kept import module_of


class Ldpv2(nn.Module):
    """The lightweight downsample projector, from a square of N patches to one of M tokens."""

    def __init__(self, channels: int, out: int, side: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, out)
        self.linear_2 = nn.Linear(out, out)
        self.positions = nn.Conv2d(out, out, 3, padding=1, groups=out)
        self.side = side

    def forward(self, patch_FNC: Tensor) -> Tensor:
        """(F, N, C) → (F, M, D)."""
        x_FND = self.linear_2(functional.gelu(self.linear_1(patch_FNC)))
        square_FDHW = x_FND.mT.unflatten(2, (math.isqrt(x_FND.shape[1]), -1))
        pooled_FDss: Tensor = functional.adaptive_avg_pool2d(square_FDHW, self.side)
        placed_FDss: Tensor = self.positions(pooled_FDss) + pooled_FDss
        return placed_FDss.flatten(2).mT


@dataclass(frozen=True)
class MobileVlmV2(Technique):
    """At `adapter`: `side`² vision tokens of each frame.

    Raises:
        ValueError: `side` is below 1.
    """

    side: int = 12

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "side")

    def begin(self, run: Run) -> Any:
        """The adapter with its weights, which no size of the pool changes."""
        widths = run.config.vision.hidden_size, run.config.text.hidden_size
        return _Acting(self, run, module_of(run, self, lambda: Ldpv2(*widths, self.side)))


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: MobileVlmV2
    run: Run
    projector: Ldpv2

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F, M, D).

        Raises:
            Refusal: the patches form no whole square.
        """
        square_side(at, self.run)
        out_FMD: Tensor = self.projector(at.hidden_FND)
        return out_FMD
