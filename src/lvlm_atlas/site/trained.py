"""The lab's trained models, as pages tell of them: read from the records and configurations beside their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

FOLDER, RECORD, CONFIG = Path("checkpoints"), "checkpoint.yaml", "config.json"
"""Where the models lie under a root, and what is read of one."""


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
    return {each.id: each for each in (_read(path.parent) for path in sorted((root / FOLDER).glob(f"*/{RECORD}")))}


def _read(folder: Path) -> Trained:
    record = yaml.safe_load((folder / RECORD).read_text("utf-8"))
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    vision, text = config["vision_config"], config["text_config"]
    own = ("id", "seed", "parameters", "steps", "pictures", "samples", "accuracy", "blind", "downsampled")
    return Trained(
        **{name: record[name] for name in own}, layers=text["num_hidden_layers"],
        vision_tokens=(vision["image_size"] // vision["patch_size"]) ** 2,
    )  # fmt: skip
