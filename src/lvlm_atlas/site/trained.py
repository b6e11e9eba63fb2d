"""The lab's trained models, as pages tell of them: read from the records beside their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from lvlm_atlas.atlas.trained import MODEL, records


@dataclass(frozen=True)
class Trained:
    """One model."""

    id: str
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


def trained(root: Path) -> dict[str, Trained]:
    """The models under a root by id; a root may have none."""
    names = [each.name for each in fields(Trained)]
    return {id_: Trained(**{name: record[name] for name in names}) for id_, record in records(root, MODEL).items()}
