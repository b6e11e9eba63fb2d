"""MMInference: each head has one of five sparse patterns, two of which keep modalities apart, found beforehand.

Paper: li2025mminference, of which the abstract and accounts by others were read; its code for several modalities is not
public. Lines of columns and diagonals are those of MInference, from whose code the constants are taken.

Departs:
1. A mask stands for what the paper's kernels reach by permuting queries and keys, so that lines of a grid or tokens of
   a modality become blocks; causality is that of the places before, and the result is the same.
2. Patterns have the sizes of the setting, and so do not cost the same; a head gets the one whose pairs hold most of its
   attention on the samples beyond what as many pairs of an even attention would. The paper searches at equal cost.
3. Strides of a grid that are tried are the tokens of a frame and those of one of its rows, if their number is known.
4. Each part of the boundaries is a vertical-slash pattern; where keys are apart too, each modality has half the sizes.
5. Tokens behind a cache attend to all of it, and the patterns are those of the new tokens among each other.

B batch, H query heads, N tokens, R probe rows.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import Attention
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.blocks import Pairs, pair_attention  # noqa: F401 - a step of the entry
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.sparse_pattern import (
    ahead_of_all,
    column_and_diagonal_sums,
    vertical_slash,
)

PATTERNS = ("a-shape", "vertical-slash", "grid", "q-boundary", "2d-boundary")
"""What a head can have; of equal gain the earlier one."""


def grid_lines(column_BHN: Tensor, strides: Seq[int]) -> Tensor:
    """True (B, H, N) at the keys on phase + m · stride, of the stride and phase that hold the largest sum.

    Args:
        column_BHN: attention that each key gets.
        strides: candidates; none gives no line.
    """
    token_N = torch.arange(column_BHN.shape[-1], device=column_BHN.device)
    lines_BHN = torch.zeros_like(column_BHN, dtype=torch.bool)
    most_BH1 = torch.full_like(column_BHN[..., :1], float("-inf"))
    for stride in strides:
        phase_BHN = (token_N % stride).expand_as(column_BHN)
        sums = column_BHN.new_zeros(*column_BHN.shape[:2], stride).scatter_add(-1, phase_BHN, column_BHN)
        best = sums.max(-1, keepdim=True)
        lines_BHN = torch.where(best.values > most_BH1, phase_BHN == best.indices, lines_BHN)
        most_BH1 = torch.maximum(most_BH1, best.values)
    return lines_BHN


def gain(weight_BHNN: Tensor, keep: Tensor) -> Tensor:
    """Attention (H,) that kept pairs hold, less what as many would hold if it were even; the mean over queries.

    Args:
        weight_BHNN: attention of each head.
        keep: kept pairs (B, H, N, N); H is 1 where heads are alike.
    """
    even_N1 = 1 / torch.arange(1, weight_BHNN.shape[-1] + 1, device=weight_BHNN.device)[:, None]
    return ((weight_BHNN - even_N1) * keep).sum(-1).mean((0, 2))


@dataclass(frozen=True)
class MMInference(Technique):
    """The attention of prefill in every layer, by patterns of heads that `calibrate` finds.

    Raises:
        ValueError: an argument lies outside its range.
    """

    vertical_size: int = 1000
    """Key columns of a head."""
    slash_size: int = 6096
    """Diagonals of a head."""
    probe_queries: int = 64
    """Last queries, of all or of a modality, whose attention chooses."""
    first_columns: int = 30
    """First keys that are always among the columns."""
    nearest_diagonals: int = 100
    """Nearest distances that are always among the diagonals."""
    calibration: tuple[tuple[str, ...], ...] | None = field(default=None, repr=False)
    """The pattern of each head of each layer."""

    acts_at: ClassVar = ("attention",)
    needs: ClassVar = (
        "block-sparse-kernel", "modality-mask", "vision-in-sequence", "equal-frames", "calibration-samples",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, least in {
            "vertical_size": 2, "slash_size": 2, "probe_queries": 1, "first_columns": 0, "nearest_diagonals": 1,
        }.items():  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def calibrate(self, lvlm: Target, samples: Seq[Request]) -> Self:
        """The pattern of each head that gains most on the samples.

        Raises:
            ValueError: there is no sample.
        """
        if not samples:
            raise ValueError("MMInference is calibrated on samples, got none; give it a few requests")
        found: list[Tensor] = []
        for sample in samples:
            observed, scores = lvlm.observe(sample), []
            for probe, _ in observed.attention:
                choice = Choice(self, probe, observed.inputs, len(sample.frames_F3HW))
                weight_BHNN = probe.rows()
                scores.append(torch.stack([gain(weight_BHNN, choice.keep(name)) for name in PATTERNS]))
            found.append(torch.stack(scores))
        best_LH = torch.stack(found).mean(0).argmax(1)
        return replace(self, calibration=tuple(tuple(PATTERNS[i] for i in row) for row in best_LH.tolist()))

    def begin(self, run: Run) -> Heads:
        """What chooses in one run."""
        return Heads(self, run)


@dataclass(frozen=True)
class Heads:
    """MMInference in one run."""

    setting: MMInference
    run: Run

    def choose_blocks(self, at: Attention) -> Pairs:
        """The pairs of each head's pattern.

        Raises:
            Refusal: the patterns are those of another model.
        """
        patterns, heads = self.setting.calibration or (), at.query_BHNd.shape[1]
        if len(patterns) != at.layers or len(patterns[at.layer]) != heads or at.probe is None:
            raise Refusal(
                f"MMInference has patterns for another model than this, of {at.layers} layers with {heads} heads; "
                f"calibrate it"
            )
        prompt = self.run.prompt
        choice = Choice(self.setting, at.probe, at.sequence, len(prompt.span_lengths) if prompt else 0)
        masks = {name: choice.keep(name) for name in dict.fromkeys(patterns[at.layer])}
        chosen = (masks[name][:, h % masks[name].shape[1]] for h, name in enumerate(patterns[at.layer]))
        return Pairs(torch.stack([*chosen], dim=1))


@dataclass
class Choice:
    """Patterns on a layer's attention."""

    setting: MMInference
    probe: Probe
    sequence: Sequence
    frames: int
    """Blocks of vision tokens, where they stand on no grid that tells."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Tokens of a frame and of a row of it, those of at least 2; the larger ones first."""
        vision, place_BN3 = int(self.sequence.vision_BN[0].sum()), self.sequence.place_BN3
        if not vision or place_BN3 is None:
            frame = vision // max(1, self.frames)
            return (frame,) if frame > 1 else ()
        frames, _, columns = (int(n) + 1 for n in place_BN3[0].amax(0))
        return tuple(sorted({n for n in (vision // frames, columns) if n > 1}, reverse=True))

    def keep(self, name: str) -> Tensor:
        """True (B, H, N, N) at the pairs of a pattern; H is 1 where heads are alike."""
        setting, length = self.setting, self.sequence.length
        nothing = self.sequence.hidden_BND.new_zeros(1, 1, length)
        everywhere_N = torch.ones_like(self.sequence.vision_BN[0])
        if name == "a-shape":
            return vertical_slash(nothing, nothing, setting.vertical_size, setting.slash_size)
        if name == "vertical-slash":
            return self.lines("all", everywhere_N)
        if name == "grid":
            weight_BHRN, _ = self.rows("all")
            around = vertical_slash(nothing, nothing, setting.first_columns, setting.nearest_diagonals)
            return (around | grid_lines(weight_BHRN.sum(2), self.strides)[:, :, None]).tril()
        apart, vision_N = name == "2d-boundary", self.sequence.vision_BN[0]
        parts = [
            self.lines(queries, key_N, 2 if apart else 1) & query_N[:, None] & key_N
            for queries, query_N in (("text", ~vision_N), ("vision", vision_N))
            for key_N in ((~vision_N, vision_N) if apart else (everywhere_N,))
        ]
        return torch.stack(parts).any(0)

    def lines(self, queries: str, key_N: Tensor, share: int = 1) -> Tensor:
        """Columns among these keys and diagonals, by what the last of some queries pay them.

        Args:
            queries: `all`, `text` or `vision`.
            key_N: True at the keys.
            share: one of how many parts of the sizes; 2 where keys of the other modality have the other.
        """
        setting, (weight_BHRN, place_R) = self.setting, self.rows(queries)
        column_BHN, diagonal_BHN = column_and_diagonal_sums(weight_BHRN * key_N, place_R)
        column_BHN = ahead_of_all(column_BHN, setting.first_columns).masked_fill(~key_N, -1)
        diagonal_BHN = ahead_of_all(diagonal_BHN, setting.nearest_diagonals)
        return vertical_slash(column_BHN, diagonal_BHN, setting.vertical_size // share, setting.slash_size // share)

    @cached_property
    def probed(self) -> tuple[Tensor, Tensor]:
        """Rows (B, H, R, N) of the last tokens of each modality, and their places; the last of all are among them."""
        vision_N = self.sequence.vision_BN[0]
        last_N = torch.stack([of_N & (of_N.flip(0).cumsum(0).flip(0) <= self.setting.probe_queries)
                              for of_N in (vision_N, ~vision_N)]).any(0)  # fmt: skip
        place_R = last_N.nonzero()[:, 0]
        return self.probe.rows(place_R), place_R

    def rows(self, queries: str) -> tuple[Tensor, Tensor]:
        """Rows (B, H, R, N) of the last `probe_queries` of these queries, and their places."""
        weight_BHRN, place_R = self.probed
        vision_R = self.sequence.vision_BN[0, place_R]
        wanted = {"all": torch.ones_like(vision_R), "text": ~vision_R, "vision": vision_R}[queries]
        some = wanted.nonzero()[:, 0][-self.setting.probe_queries :]
        return weight_BHRN[:, :, some], place_R[some]
