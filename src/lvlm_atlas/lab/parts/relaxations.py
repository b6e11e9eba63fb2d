"""Techniques whose hard choice is relaxed, so that gradients reach the modules that make it.

Each is the technique, its modules and all, with another choice, and acts with a `penalty` to be added to the loss.

B samples, N tokens, V vision tokens, S stretches, L frames of a stretch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.ops.stretches import borders
from lvlm_atlas.reference.techniques.encoding.vila_frame_prompter import (
    Prompting,
    ViLAFramePrompter,
    gumbel_noise,
    hard_sample,
)
from lvlm_atlas.reference.techniques.prefilling.atp_llava import AtpLlava, Modules, soft_mask
from lvlm_atlas.reference.techniques.prefilling.dynamic_llava import DynamicLlava, Sparsifying

FAINTEST = 1e-5
"""What attention to a token is multiplied by at least, whose logarithm is added to its logits."""
TEMPERATURE = 10.0
"""Of ATP-LLaVA's soft masks."""
ATP_SHARE, ATP_WEIGHT = 0.3, 100.0
"""The mean share of vision tokens that its masks shall leave, and the weight of the square of what is missed."""
DYNAMIC_WEIGHT = 100.0
"""The same weight of Dynamic-LLaVA's predictor, whose share is the technique's own."""


def faded(sequence: Sequence, mask_BV: Tensor) -> Sequence:
    """The tokens, those that are visual attended to less from here on.

    Args:
        sequence: the tokens.
        mask_BV: what attention to each vision token is multiplied by, before it is normalised, from 0 to 1.
    """
    bias_BV = mask_BV.float().clamp(min=FAINTEST).log()
    none_BN = torch.zeros_like(sequence.vision_BN, dtype=torch.float32)
    bias_BN = none_BN.scatter(1, sequence.vision_places(), bias_BV)
    return replace(sequence, bias_BN=bias_BN if sequence.bias_BN is None else sequence.bias_BN + bias_BN)


class FadingAtpLlava(AtpLlava):
    """Vision tokens fade by the distance of their scores from the thresholds; a penalty holds how many stay."""

    def begin(self, run: Run) -> FadingModules:
        """What acts in a run."""
        acting = super().begin(run)
        return FadingModules(acting.setting, acting.at_layer)


@dataclass(frozen=True)
class FadingModules(Modules):
    """The modules of one run, and what they left."""

    left: list[Tensor] = field(default_factory=list)
    """Behind each module, how far vision tokens (B, V) are still there."""

    @property
    def penalty(self) -> Tensor:
        """The weighted square of how far the mean share that is left behind the modules is from what it shall be."""
        return ATP_WEIGHT * (torch.stack(self.left).mean() - ATP_SHARE) ** 2

    def pruned(
        self, sequence: Sequence, redundant_BV: Tensor, spatial_BV: Tensor, thresholds: tuple[Tensor, Tensor]
    ) -> Sequence:
        """See `Modules`."""
        mask_BV = soft_mask(redundant_BV, spatial_BV, *thresholds, TEMPERATURE)
        self.left.append(mask_BV * self.left[-1] if self.left else mask_BV)
        return faded(sequence, mask_BV)


class FadingDynamicLlava(DynamicLlava):
    """Vision tokens stay or fade away by a hard sample of the predictor's logits; a penalty holds how many stay."""

    def begin(self, run: Run) -> FadingSparsifying:
        """What acts in a run."""
        return FadingSparsifying(self, super().begin(run).vision, None, run=run)


@dataclass
class FadingSparsifying(Sparsifying):
    """Dynamic-LLaVA in one run, and what its predictor left."""

    run: Run = field(kw_only=True)
    penalty: Tensor = field(default_factory=lambda: torch.zeros(()))
    """The weighted square of how far the share that is left is from the setting's."""

    def pruned(self, sequence: Sequence, logit_BV2: Tensor) -> Sequence:
        """See `Sparsifying`."""
        logit_T2 = logit_BV2.float().flatten(0, 1)
        noise_T2 = gumbel_noise(len(logit_T2), 2, self.run.request.seed)
        mask_BV = hard_sample(logit_T2, noise_T2, temperature=1.0)[:, 0].unflatten(0, logit_BV2.shape[:2])
        self.penalty = DYNAMIC_WEIGHT * (mask_BV.mean() - self.setting.vision_keep_rate) ** 2
        return faded(sequence, mask_BV)


class BlendingFramePrompter(ViLAFramePrompter):
    """In place of the picked frame of a stretch stands the sum of all its frames, each times its sample."""

    def begin(self, run: Run) -> Blending:
        """What acts in a run."""
        return Blending(self, run)


class Blending(Prompting):
    """The prompter in a run."""

    penalty = torch.zeros(())

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """See `Prompting`."""
        blocks = at.tokens.blocks
        if self.setting.segments >= len(blocks):
            return at.tokens
        sample_SL = self.sample(self.mean_FN.unflatten(0, (len(blocks), -1)).mean(dim=1))
        left: list[Block] = []
        stretches = pairwise(borders(len(blocks), len(sample_SL)).tolist())
        for (first, end), sample_L in zip(stretches, sample_SL, strict=True):
            picked = first + int(sample_L.argmax())
            token_ND = sum(weight * block.token_ND for weight, block in zip(sample_L, blocks[first:end], strict=False))
            left += [
                replace(block, token_ND=cast("Tensor", token_ND)) if frame == picked else block.emptied()
                for frame, block in enumerate(blocks[first:end], first)
            ]
        return replace(at.tokens, blocks=tuple(left))
