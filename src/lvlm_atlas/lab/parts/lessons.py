"""How the lab trains parts of its models, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvlm_atlas.lab.parts.adapter import AdapterLesson
from lvlm_atlas.lab.parts.depth import Depth
from lvlm_atlas.lab.parts.draft import Draft
from lvlm_atlas.lab.parts.heads import DecoupledLesson, FeatureLesson
from lvlm_atlas.lab.parts.lesson import Lesson
from lvlm_atlas.lab.parts.scorer import FrameScorer, PatchScorer
from lvlm_atlas.lab.parts.seeing import SeeingLesson
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.techniques.encoding.nvila import Nvila, NvilaProjector
from lvlm_atlas.reference.techniques.encoding.pixel_shuffle import PixelShuffle, ShuffleProjector

LESSONS: Mapping[str, Lesson[Any]] = {
    "frame-scorer": FrameScorer(),
    "patch-scorer": PatchScorer(),
    "depth-head": Depth(),
    "draft": Draft(),
    "feature-head": FeatureLesson(),
    "decoupled-head": DecoupledLesson(),
    "seeing-drafter": SeeingLesson(),
    "shuffle-projector": AdapterLesson(
        "pixel-shuffle", PixelShuffle(), (PixelShuffle, PixelShuffle().factor),
        lambda encoder, llm: ShuffleProjector(encoder, llm, PixelShuffle().factor),
    ),
    "nvila-projector": AdapterLesson(
        "nvila", Nvila(), (Nvila, Nvila().factor), lambda encoder, llm: NvilaProjector(encoder, llm, Nvila().factor)
    ),
}  # fmt: skip


def lessons(config: Config) -> dict[str, Lesson[Any]]:
    """Those that suit models of these shapes."""
    return {name: lesson for name, lesson in LESSONS.items() if lesson.suits(config)}


def serving(technique: str) -> set[str]:
    """Names of those that train what a technique must have trained."""
    return {name for name, lesson in LESSONS.items() if technique in lesson.techniques}
