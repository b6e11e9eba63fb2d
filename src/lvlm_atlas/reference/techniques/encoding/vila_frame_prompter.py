"""ViLA's Frame-Prompter: a learned gate picks one frame of each stretch of the video behind the encoder.

Paper: wang2024vila; code: xijun-cs/ViLA, lavis/models/vila_models/vila.py (`FrameSelector`, `GumbleSoftmax`).

Symbols: num_segments → segments (S), frame_num → F, inplanes → N, conv_pool → pool, conv_gs → score.

Departs:
1. The code needs a number of frames that `segments` divides. Here stretches may differ by a frame: a shorter one is
   filled up with zeros, which are never picked.
2. With as many segments as frames, or more, all frames stay and the gate does not run.
3. The channel means are those of what the encoder hands on; the code takes them behind the norm that BLIP-2 puts there,
   whose affine part alone keeps them from being zero.
4. The noise comes from a generator of its own on the CPU, seeded by the request, so that a run can be repeated.
5. Of a tiled image the channel means are averaged over its views; the code has no tiles.
6. Frames that are not picked pass through the model's adapter too, and their tokens are dropped behind it; the code
   does without their Q-Former.
7. The gate's weights are random unless trained ones are given; the teacher and its distillation are not here.

F frames, S stretches, L frames of a stretch, N tokens of a frame, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.stretches import borders
from lvlm_atlas.reference.refusal import Refusal

EPSILON = 1e-10
"""Keeps the logarithms of the noise finite, as in the code."""


class FrameGate(nn.Module):
    """Scores the frames of a stretch from the channel means of their tokens; every stretch has the same weights."""

    def __init__(self, frames: int, tokens: int) -> None:
        super().__init__()
        self.pool = nn.Linear(frames * tokens, frames)
        self.norm = nn.LayerNorm(frames)
        self.score = nn.Linear(frames, frames)

    def forward(self, mean_SLN: Tensor) -> Tensor:
        """Logits (S, L)."""
        out: Tensor = self.score(functional.relu(self.norm(self.pool(mean_SLN.flatten(1)))))
        return out


def gumbel_noise(stretches: int, frames: int, seed: int) -> Tensor:
    """Gumbel noise (S, L), float32 on the CPU: −ln(ε − ln(u + ε)) of uniform numbers u."""
    uniform_SL = torch.rand(stretches, frames, generator=torch.Generator().manual_seed(seed))
    return -(EPSILON - (uniform_SL + EPSILON).log()).log()


def hard_sample(logit_SL: Tensor, noise_SL: Tensor, temperature: float = 0.5) -> Tensor:
    """Straight-through sample (S, L): a 1 in each row, at the greatest noisy logit; gradients are those of the softmax.

    Args:
        logit_SL: scores of the frames of each stretch; −∞ where there is no frame.
        noise_SL: Gumbel noise; zeros pick the best frame.
        temperature: of the softmax, which shapes gradients and never the choice.
    """
    noisy_SL = logit_SL + noise_SL
    soft_SL = (noisy_SL / temperature).softmax(dim=-1)
    hard_SL = functional.one_hot(noisy_SL.argmax(dim=-1), noisy_SL.shape[1]).to(soft_SL.dtype)
    return hard_SL - soft_SL.detach() + soft_SL


def in_stretches(mean_FN: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Frames by stretch (S, L, N), shorter stretches filled up with zeros, and True (S, L) where a frame stands."""
    border = borders(len(mean_FN), segments).tolist()
    stretches = [mean_FN[first:end] for first, end in pairwise(border)]
    real = [torch.ones(len(each), dtype=torch.bool, device=mean_FN.device) for each in stretches]
    return pad_sequence(stretches, batch_first=True), pad_sequence(real, batch_first=True)


@dataclass(frozen=True)
class ViLAFramePrompter(Technique):
    """At `encoder-output`, where it looks at frames, and at `adapter-output`, where the tokens of most are dropped.

    Raises:
        ValueError: `segments` is less than 1.
    """

    segments: int = 4
    noise: bool = True

    acts_at: ClassVar = ("encoder-output", "adapter-output")
    needs: ClassVar = ("visual-features", "training-data", "whole-grid", "frames-apart")
    withholds: ClassVar = ("equal-frames", "frames-apart")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "segments")

    def begin(self, run: Run) -> Prompting:
        """What acts in a run."""
        return Prompting(self, run)


@dataclass
class Prompting:
    """The prompter in a run, and the channel means of the clip at hand."""

    setting: ViLAFramePrompter
    run: Run
    mean_FN: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The patches as they are; their channel means are noted."""
        self.mean_FN = at.patches.hidden_FND.mean(dim=-1)
        return at.patches

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The tokens of the picked frames; of the others none are left.

        Raises:
            Refusal: images are tiled and differ in size.
        """
        lengths, views = at.tokens.lengths, len(self.mean_FN)
        if views % len(lengths) or len({*lengths}) > 1:
            raise Refusal(
                f"the Frame-Prompter picks among images of one size, these have {', '.join(map(str, lengths))} vision "
                f"tokens; resize them"
            )
        picked = {*self.pick(self.mean_FN.unflatten(0, (len(lengths), -1)).mean(dim=1))}
        if len(picked) == len(lengths):
            return at.tokens
        blocks = (block if frame in picked else block.emptied() for frame, block in enumerate(at.tokens.blocks))
        return replace(at.tokens, blocks=tuple(blocks))

    def pick(self, mean_FN: Tensor) -> list[int]:
        """The frames that stay, ascending: one of each stretch, or all."""
        frames, segments = len(mean_FN), self.setting.segments
        if segments >= frames:
            return [*range(frames)]
        place_S = self.sample(mean_FN).argmax(dim=-1)
        return [
            first + place for first, place in zip(borders(frames, segments).tolist(), place_S.tolist(), strict=False)
        ]

    def sample(self, mean_FN: Tensor) -> Tensor:
        """A 1 at one frame of each stretch (S, L), see `hard_sample`."""
        segments = self.setting.segments
        mean_SLN, real_SL = in_stretches(mean_FN, segments)
        _, longest, tokens = mean_SLN.shape
        gate = module_of(self.run, (ViLAFramePrompter, longest, tokens), lambda: FrameGate(longest, tokens))
        logit_SL = gate(mean_SLN).float().masked_fill(~real_SL, -torch.inf)
        noise_SL = torch.zeros_like(logit_SL)
        if self.setting.noise:
            noise_SL = gumbel_noise(segments, longest, self.run.request.seed).to(logit_SL.device)
        return hard_sample(logit_SL, noise_SL)
