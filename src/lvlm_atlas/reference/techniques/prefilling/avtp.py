"""AVTP: vision tokens whose hidden states change little between layers go, fewer of them in images that change more.

Paper: zhang2026avtp; code: zry13/AVTP, qwen3vl/modeling_qwen3vl_avtp.py (`Qwen3VLTextModel.forward`).

Symbols: `reduce_layers` → `layers`, `base_ratio_list` → `shares`, `cos_sim` → cosine, `img_start_pos` → the place in
front of an image, whose token is its start mark.

Departs:
1. An image is a run of vision tokens, and its start mark whatever token stands in front of it; the code is told the
   places of both marks of each image. Images with no text between them are one, and so are frames of a video.
2. An image with no token in front of it, as in a chunk that begins inside it, keeps the plain share and does not count
   in the mean; the code finds a mark for each.
3. Of equal cosines the earlier token stays; the code's `topk` leaves that open. Shares are in double precision.

N tokens, V vision tokens of an image, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.ops.places import places_of
from lvlm_atlas.reference.ops.selection import top_mask
from lvlm_atlas.reference.refusal import Refusal

Image = tuple[int, int]
"""The place of an image's first vision token, and the place behind its last one."""


def images_of(vision: Seq[bool]) -> list[Image]:
    """The runs of vision tokens in a prompt, in order."""
    padded = [False, *vision, False]
    edges = [place for place, (one, two) in enumerate(pairwise(padded)) if one != two]
    return [*zip(edges[::2], edges[1::2], strict=True)]


def budgets(cosine: Seq[float | None], lengths: Seq[int], share: float, alpha: float = 1.0) -> list[int]:
    """Tokens that each image keeps: a share of them, the larger the more its start mark has changed; one at least.

    Args:
        cosine: of each start mark with what it was; None where an image has none, which then keeps the plain share.
        lengths: tokens of each image.
        share: what an image keeps whose mark has changed as much as the mean of all.
        alpha: how much the distance from the mean shifts it.
    """
    marks = [each for each in cosine if each is not None]
    mean = sum(marks) / max(1, len(marks))
    shifted = (share + alpha * (0.0 if each is None else mean - each) for each in cosine)
    return [max(1, int(length * min(1.0, max(0.0, each)))) for length, each in zip(lengths, shifted, strict=True)]


def kept_of(cosine_N: Tensor, images: Iterable[Image], keep: Iterable[int]) -> Tensor:
    """True (N,) at the text, and of each image at so many tokens of least cosine."""
    kept_N = torch.ones_like(cosine_N, dtype=torch.bool)
    for (first, end), most in zip(images, keep, strict=True):
        kept_N[first:end] = top_mask(-cosine_N[first:end], most)
    return kept_N


@dataclass(frozen=True)
class Avtp(Technique):
    """Prunes before each layer of `layers`; kept tokens keep their position ids.

    Raises:
        ValueError: an argument lies outside its range.
    """

    layers: tuple[int, ...] = (1, 19, 22)
    """Layers before which it prunes."""
    shares: tuple[float, ...] = (0.8, 0.8, 0.78)
    """What an image keeps there of the tokens that it has left, on average."""
    alpha: float = 1.0

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("visual-features", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        layers, shares = tuple(self.layers), tuple(self.shares)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "shares", shares)
        if any(layer < 1 for layer in layers) or [*layers] != sorted({*layers}):
            raise ValueError(f"layers must rise and be at least 1, got {[*layers]}")
        if any(not 0 < share <= 1 for share in shares):
            raise ValueError(f"shares must lie in (0, 1], got {[*shares]}")
        self.expect_at_least(0, "alpha")

    def begin(self, run: Run) -> Stages:
        """What acts in a run.

        Raises:
            Refusal: there is not one share for each layer, there are more than three layers, the LLM has no such layer,
                or another technique may drop tokens between its layers.
        """
        if len(self.layers) != len(self.shares):
            raise Refusal(f"layers and shares must be equally many, got {len(self.layers)} and {len(self.shares)}")
        if len(self.layers) > 3:
            raise Refusal(f"AVTP prunes before three layers at most, got {[*self.layers]}; name fewer")
        last = run.config.text.num_hidden_layers - 1
        if any(layer > last for layer in self.layers):
            raise Refusal(f"layers must lie in 1..{last} for an LLM of {last + 1} layers, got {[*self.layers]}")
        expect_alone(run, self, "AVTP compares the tokens with those that it left itself some layers before")
        return Stages(self)


@dataclass
class Stages:
    """AVTP in one run."""

    setting: Avtp
    before_ND: Tensor = field(default_factory=Tensor)
    """The tokens as they were behind the last pruning, at first as they entered the LLM."""

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer before each layer that prunes."""
        setting, sequence = self.setting, at.sequence
        if at.layer == 0:
            self.before_ND = sequence.hidden_BND[0]
        if at.layer not in setting.layers:
            return sequence
        images = images_of(sequence.vision_BN[0].tolist())
        if images:
            cosine_N = functional.cosine_similarity(sequence.hidden_BND[0].float(), self.before_ND.float(), dim=-1)
            known = cosine_N.tolist()
            marks = [known[first - 1] if first else None for first, _ in images]
            lengths = [end - first for first, end in images]
            keep = budgets(marks, lengths, setting.shares[setting.layers.index(at.layer)], setting.alpha)
            sequence = sequence.keep(places_of(kept_of(cosine_N, images, keep)[None]))
        self.before_ND = sequence.hidden_BND[0]
        return sequence
