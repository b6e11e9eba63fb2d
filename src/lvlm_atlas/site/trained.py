"""The lab's trained models, as pages tell of them: read from the records beside their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from lvlm_atlas.atlas.trained import MODEL, PART, record, records


@dataclass(frozen=True)
class Trained:
    """One model."""

    id: str
    dialect: str
    """Of which published LVLM it has the architecture."""
    seed: int
    parameters: int
    steps: int
    pictures: int
    samples: int
    """Held-back samples of each task that it was judged by."""
    vision_tokens: int
    """Of a picture."""
    layers: int
    """Of its LLM."""
    accuracy: Mapping[str, float]
    """Of each task."""
    blind: Mapping[str, float]
    """The same without pictures."""
    downsampled: Mapping[str, float]
    """The same at half the resolution."""


@dataclass(frozen=True)
class TrainedPart:
    """What techniques bring along, as it was trained for one model."""

    id: str
    kind: str
    summary: str
    """What it is."""
    departs: str
    """What was done otherwise than in the papers."""
    parameters: int
    steps: int
    held_back: Mapping[str, float]
    """How well it does on pictures that were held back, from 0 to 1."""


def trained_part(root: Path, id_: str) -> TrainedPart | None:
    """A part under a root; None where there is none of that id."""
    about = record(root, id_, PART)
    return TrainedPart(**{each.name: about[each.name] for each in fields(TrainedPart)}) if about else None


def trained(root: Path) -> dict[str, Trained]:
    """The models under a root by id; a root may have none."""
    names = [each.name for each in fields(Trained)]
    return {id_: Trained(**{name: about[name] for name in names}) for id_, about in records(root, MODEL).items()}
