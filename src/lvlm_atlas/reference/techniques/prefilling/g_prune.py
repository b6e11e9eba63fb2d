"""G-Prune: the vision tokens in which information from tokens like them gathers, discounted by how many there are.

Paper: jiang2025gprune; code: jytmelon/G-Prune, LLaVA-NeXT/llava/model/llava_arch.py
(`prepare_inputs_labels_for_multimodal`).

Symbols: the similarity σ → `similarity`, T → `temperature`, `iterate_num` → `iterations`, the transition matrix A → of
`transitions`, the norms W → norm_V.

Departs:
1. Mass flows step by step, W · A · A …; the code raises A to the power first, which costs a factor of V more.
2. Each image, tiled or not, and each frame or temporal patch is a graph of its own. The code has two for a tiled image,
   the whole and its tiles, and keeps the newlines of the rows whatever their score; here they are tokens like others.
3. Vision tokens may stand anywhere; the code counts on LLaVA-NeXT's 46 prompt tokens in front of one image.
4. Of equal scores the earlier token stays; the code's `topk` leaves that open. Scores are in float32.

B batch, N tokens, M vision tokens, V of one image, K kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.ops.similarity import unit

NO_EDGE = -5000.0
"""Put to the softmax where there is no edge, whose weight is then exactly 0 unless the row has no edge at all."""


def transitions(x_VD: Tensor, similarity: float, temperature: float) -> Tensor:
    """Which share of a token's mass goes to which other in a step: (V, V), each row sums to 1.

    Args:
        x_VD: the tokens.
        similarity: least cosine of an edge; what is all but at right angles has none at any rate.
        temperature: by which cosines are divided before the softmax over a row.
    """
    unit_VD = unit(x_VD)
    cosine_VV = unit_VD @ unit_VD.mT
    logit_VV = cosine_VV.masked_fill(cosine_VV < similarity, 0) / temperature
    share_VV: Tensor = logit_VV.masked_fill(logit_VV.abs() < 1e-6, NO_EDGE).softmax(dim=1)
    return share_VV


def gathered(norm_V: Tensor, share_VV: Tensor, iterations: int) -> Tensor:
    """What each token has (V,) once mass has flowed for some steps, divided by how many it sends mass to."""
    mass_V = norm_V
    for _ in range(iterations):
        mass_V = mass_V @ share_VV
    return mass_V / (share_VV > 0).sum(dim=1)


def g_prune(x_VD: Tensor, keep_ratio: float, similarity: float, temperature: float, iterations: int) -> Tensor:
    """Places (K,) of the kept tokens of an image, ascending; K = ⌊`keep_ratio` · V⌋."""
    x_VD = x_VD.float()
    score_V = gathered(x_VD.norm(dim=1), transitions(x_VD, similarity, temperature), iterations)
    return top_places(score_V, int(keep_ratio * len(x_VD)))


@dataclass(frozen=True)
class GPrune(Technique):
    """At `llm-input`: keeps a share of each image's vision tokens, with their position ids.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    keep_ratio: float = 0.5
    similarity: float = 0.5
    temperature: float = 0.03
    iterations: int = 5

    acts_at: ClassVar = ("llm-input",)
    needs: ClassVar = ("visual-features", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], got {self.keep_ratio}")
        if not 0 <= self.similarity < 1:
            raise ValueError(f"similarity must lie in [0, 1), got {self.similarity}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        self.expect_at_least(1, "iterations")

    def begin(self, run: Run) -> Pruning:
        """What acts in a run."""
        return Pruning(self, run)


@dataclass(frozen=True)
class Pruning:
    """G-Prune with the run, whose prompt says which vision tokens are of one image."""

    setting: GPrune
    run: Run

    def llm_input(self, at: LlmInput) -> Sequence:
        """The prompt with fewer vision tokens."""
        sequence, setting = at.sequence, self.setting
        x_BMD = take(sequence.hidden_BND, sequence.vision_places())
        how = setting.keep_ratio, setting.similarity, setting.temperature, setting.iterations
        kept, before = [], 0
        for image_VD in x_BMD[0].split(self._alive(sequence)):
            kept.append(before + g_prune(image_VD, *how))
            before += len(image_VD)
        return sequence.keep_vision(torch.cat(kept)[None]) if kept else sequence

    def _alive(self, sequence: Sequence) -> list[int]:
        """How many vision tokens of each image there still are, in the order of the prompt."""
        prompt = self.run.prompt
        if prompt is None or sum(prompt.span_lengths) == int(sequence.vision_BN.sum()):
            return [*prompt.span_lengths] if prompt else [int(sequence.vision_BN.sum())]
        start = sequence.first_index  # of a later round of a session, whose prompt is counted from 0
        alive_K = sequence.index_BN[0, sequence.vision_BN[0]].cpu() - start
        return [int(torch.isin(span_V.cpu(), alive_K).sum()) for span_V in prompt.spans]
