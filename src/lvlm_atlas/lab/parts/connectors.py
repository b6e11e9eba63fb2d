"""ViCO's two connectors, and the router that says where few vision tokens will do.

F frames, M tokens of answers, C vocabulary.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from lvlm_atlas.lab.parts.draft import drawn_samples, kl_divergence
from lvlm_atlas.lab.parts.imitation import Imitating, Imitation
from lvlm_atlas.lab.tasks.sample import Sample
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.techniques.encoding.vico import ViCO, ViCOActing

REMEMBERED = 256
"""Samples over which the median runs that tells where few tokens do."""


@dataclass(frozen=True)
class UniformViCO(ViCO):
    """The technique with few tokens for every frame, or many for every."""

    compress: bool = False

    def begin(self, run: Run) -> UniformActing:
        """What acts in a run."""
        acting = super().begin(run)
        return UniformActing(self, run, acting.modules)


@dataclass(frozen=True)
class UniformActing(ViCOActing):
    """The technique in a run, and what the router said."""

    gates: list[Tensor] = field(default_factory=list)

    def few(self, gate_F: Tensor) -> Tensor:
        """See `ViCOActing`."""
        self.gates.append(gate_F)
        return torch.full_like(gate_F, cast("UniformViCO", self.setting).compress, dtype=torch.bool)


class Connecting(Imitating):
    """Both connectors and the router."""

    def __init__(self, part: nn.Module, kind: ConnectorTraining) -> None:
        super().__init__(part, kind)
        self.distances: deque[float] = deque(maxlen=REMEMBERED)

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        samples = drawn_samples(random, self.kind.pictures)
        theirs = self.kind.said(model, samples)
        losses, at = list[Tensor](), 0
        for sample in samples:
            many_MC, _ = self._read(model, sample, compress=False)
            few_MC, gate_F = self._read(model, sample, compress=True)
            theirs_MC = theirs[at : at + len(many_MC)]
            at += len(many_MC)
            many, few = (kl_divergence(each, theirs_MC) for each in (many_MC, few_MC))
            self.distances.append(float(few.detach()))
            enough = float(few.detach()) <= float(np.median(self.distances))
            losses.append(many + few + binary_cross_entropy(gate_F, torch.full_like(gate_F, enough)))
        return torch.stack(losses).mean()

    def _read(self, model: LVLM, sample: Sample, *, compress: bool) -> tuple[Tensor, Tensor]:
        """Logits (M, C) at the tokens of answers, and what the router says of each frame (F,)."""
        logits_MC, run = self.kind.read_answer(model, sample, UniformViCO(**self.kind.at, compress=compress))  # type: ignore[arg-type]
        (gate_F,) = cast("UniformActing", run.acts.at("adapter")[0]).gates
        return logits_MC, gate_F


class ConnectorTraining(Imitation):
    """The connectors and the router."""

    departs = (
        "The connectors are trained, to have the model say with either what it says without them, and the router in "
        "the same steps: few tokens do for the half of the samples that lose least by them. The paper trains the "
        "language model with both first, then the router, by the ratio of the two losses on each tile."
    )
    steps, pictures = 1_200, Imitation.pictures // 2  # each is read twice

    def __init__(self) -> None:
        super().__init__(
            "ViCO's connectors to many vision tokens and to few, and its router", f"{ViCO.__module__}:{ViCO.__name__}",
            {"factor": 1, "low_factor": 2},
        )  # fmt: skip

    def trainable(self, model: LVLM, seed: int) -> Connecting:
        """See `PartTraining`."""
        return Connecting(super().trainable(model, seed).part, self)
