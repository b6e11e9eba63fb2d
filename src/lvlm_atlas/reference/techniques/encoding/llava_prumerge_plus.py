"""LLaVA-PruMerge+: PruMerge, with patches at even steps added to those that the class token attends to.

Paper: shang2025prumerge, sec. 3; code: 42Shawn/LLaVA-PruMerge, llava/model/multimodal_encoder/clip_encoder.py,
`token_prune_merge_advanced_plus`, as its forward calls it (adaptive).

Symbols: as in `llava_prumerge`.

Departs, besides what `llava_prumerge` does:
1. Without any outlier the code divides by zero; here only the sum of all patches is left, as of PruMerge.
2. The code takes one frame at a time, for frames may add different numbers. Here they do, each on its own grid, though
   quartiles are taken over all frames of a clip as in PruMerge.
3. The path for training, with a fixed ratio and places that may come twice, is not here.

F frames, N patches without the class token, K kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.uneven import without_filling
from lvlm_atlas.reference.ops.outliers import outlier_ratio
from lvlm_atlas.reference.techniques.encoding.llava_prumerge import (
    check_neighbours,
    kept_places,
    look,
    merge,
)


def grid_places(patches: int, ratio: float, density: int = 3) -> Tensor:
    """Every ⌊⌊1 / ratio⌋ / density⌋-th place from 0 on; the last of all patches is never one, as in the code.

    Args:
        patches: N.
        ratio: share of the patches that are outliers, above 0.
        density: patches of the grid for each patch kept for its attention, about.
    """
    return torch.arange(0, patches - 1, max(1, int(1 / ratio) // density))


def supplemented(kept_K: Tensor, grid_S: Tensor) -> Tensor:
    """The kept places, then those of the grid that are not among them, ascending."""
    return torch.cat([kept_K, grid_S[~torch.isin(grid_S, kept_K)]])


@dataclass(frozen=True)
class LlavaPruMergePlus(Technique):
    """At `encoder-output`, and again behind the adapter, where frames may hold different numbers of tokens.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    neighbours: int = 32
    density: int = 3

    acts_at: ClassVar = ("encoder-output", "adapter-output")
    needs: ClassVar = ("encoder-attention", "encoder-keys", "cls-token", "free-patches", "whole-grid",
                       "unread-encoder-layer")  # fmt: skip
    withholds: ClassVar = ("cls-token", "whole-grid", "equal-frames")

    def __post_init__(self) -> None:
        check_neighbours(self.neighbours)
        self.expect_at_least(1, "density")

    def begin(self, run: Run) -> Supplementing:
        """What acts in a run."""
        return Supplementing(self, run.config.vision.num_hidden_layers - 1)


@dataclass
class Supplementing:
    """PruMerge+ with the index of the model's last encoder layer, and what it made of the frames of a clip."""

    setting: LlavaPruMergePlus
    last_layer: int
    lengths: list[int] = field(default_factory=list)
    """Tokens of each frame; shorter frames are filled up for the adapter."""

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The merged patches of each frame, filled up to those of the longest.

        Raises:
            Refusal: there is not one class token, the last layer has run already, or it cannot be looked ahead to.
        """
        attention_FN, key_FNC, hidden_FND = look(at.patches, self.last_layer, "LLaVA-PruMerge+")
        ratio = outlier_ratio(attention_FN)
        kept = [*kept_places(attention_FN, ratio)]
        if ratio:
            grid_S = grid_places(attention_FN.shape[1], ratio, self.setting.density).to(attention_FN.device)
            kept = [supplemented(kept_K, grid_S) for kept_K in kept]
        merged = [
            merge(*each, self.setting.neighbours) for each in zip(hidden_FND, attention_FN, key_FNC, kept, strict=True)
        ]
        self.lengths = [len(each) for each in merged]
        return Patches(pad_sequence(merged, batch_first=True), prefix=0)

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The tokens without what filled them up; a tiled image has several frames in its block.

        Raises:
            Refusal: another technique has left other tokens since.
        """
        return without_filling(at.tokens, self.lengths, "LLaVA-PruMerge+")
