"""How a model of the lab is trained: phases, and what each shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True)
class Phase:
    """Steps that are alike."""

    steps: int
    kinds: Mapping[str, float]
    """How often a step shows pictures of a kind (`training_sample`)."""
    language: bool = True
    """Whether the whole model is trained; else the encoder alone, to tell what each patch shows."""
    rate: float | None = 1.0
    """Share of the learning rates that it starts at; None: they go on falling from the phase before."""
    sparse: float = 0.0
    """Share of the steps that show the language model only some of each picture's vision tokens, drawn by chance."""
    placed: float = 0.0
    """Weight of telling from the features of a patch in which row and column it lies, so that a vision token says it
    wherever it stands in the prompt."""


FRAMES = 32
"""Pictures of a step."""
WORDS = 48
"""Room for questions and answers on the pictures of a sample."""
PHASES = (
    Phase(700, {"still": 1.0}, language=False),
    Phase(1_100, {"still": 1.0}),
    Phase(700, {"still": 0.5, "images": 0.15, "needle": 0.15, "burst": 0.2}, rate=None),
    Phase(1_000, {"still": 0.15, "chart": 0.15, "count": 0.1, "images": 0.2, "needle": 0.2, "burst": 0.2}),
    Phase(600, {"still": 0.1, "chart": 0.25, "caption": 0.2, "needle": 0.2, "burst": 0.25}, rate=0.6),
    Phase(
        900,
        {"still": 0.3, "chart": 0.1, "count": 0.1, "caption": 0.2, "images": 0.05, "needle": 0.1, "burst": 0.15},
        rate=0.8,
        sparse=0.5,
        placed=1.0,
    ),
    Phase(
        700,
        {"still": 0.2, "chart": 0.1, "count": 0.1, "caption": 0.25, "images": 0.05, "needle": 0.1, "burst": 0.2},
        rate=0.7,
        sparse=0.5,
        placed=1.0,
    ),
)
LEAST_KEPT = 0.15
"""Share of a picture's vision tokens that a sparse step keeps at least."""
MATRIX_RATE, OTHER_RATE = 3e-3, 3e-3
"""Learning rates of matrices, whose updates Muon makes orthogonal (scaled to the size of AdamW's), and of all else."""
WARM_UP, DECAY, CLIP = 50, 0.01, 1.0
"""Steps to the full rate; weight decay; largest norm of the gradient."""
BACKGROUND = 0.3
"""Weight of patches that show nothing in particular."""


def phase_of(step: int) -> Phase:
    """The phase that a step belongs to."""
    for phase in PHASES:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return PHASES[-1]


def rate_share(step: int) -> float:
    """Of the learning rates, what a step gets: warmed up, then falling as a cosine to a tenth."""
    first, length, peak = 0, 0, 1.0
    for phase in PHASES:
        if phase.rate is None:
            length += phase.steps
        elif step < first + length:
            break
        else:
            first, length, peak = first + length, phase.steps, phase.rate
    within = step - first
    return peak * min(1.0, (within + 1) / WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * within / length))


def total() -> int:
    """Steps of all phases."""
    return sum(phase.steps for phase in PHASES)


def digest() -> str:
    """Changes with the recipe."""
    said = repr((PHASES, FRAMES, WORDS, MATRIX_RATE, OTHER_RATE, WARM_UP, DECAY, CLIP, BACKGROUND, LEAST_KEPT))
    return sha256(said.encode()).hexdigest()[:8]
