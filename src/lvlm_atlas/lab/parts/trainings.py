"""How the lab trains parts of its models, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvlm_atlas.lab.parts.adapter import AdapterTraining
from lvlm_atlas.lab.parts.depth import Depth
from lvlm_atlas.lab.parts.draft import Draft
from lvlm_atlas.lab.parts.heads import DecoupledHeadTraining, FeatureHeadTraining
from lvlm_atlas.lab.parts.part_training import PartTraining
from lvlm_atlas.lab.parts.scorer import FrameScorer, PatchScorer
from lvlm_atlas.lab.parts.seeing import SeeingDrafterTraining
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.techniques.encoding.nvila import Nvila, NvilaProjector
from lvlm_atlas.reference.techniques.encoding.pixel_shuffle import PixelShuffle, ShuffleProjector

TRAININGS: Mapping[str, PartTraining[Any]] = {
    "frame-scorer": FrameScorer(),
    "patch-scorer": PatchScorer(),
    "depth-head": Depth(),
    "draft": Draft(),
    "feature-head": FeatureHeadTraining(),
    "decoupled-head": DecoupledHeadTraining(),
    "seeing-drafter": SeeingDrafterTraining(),
    "shuffle-projector": AdapterTraining(
        "pixel-shuffle", PixelShuffle(), (PixelShuffle, PixelShuffle().factor),
        lambda encoder, llm: ShuffleProjector(encoder, llm, PixelShuffle().factor),
    ),
    "nvila-projector": AdapterTraining(
        "nvila", Nvila(), (Nvila, Nvila().factor), lambda encoder, llm: NvilaProjector(encoder, llm, Nvila().factor)
    ),
}  # fmt: skip


def trainings(config: Config) -> dict[str, PartTraining[Any]]:
    """Those that suit models of these shapes."""
    return {name: training for name, training in TRAININGS.items() if training.suits(config)}


def serving(technique: str) -> set[str]:
    """Names of those that train what a technique must have trained."""
    return {name for name, training in TRAININGS.items() if technique in training.techniques}
