"""How the lab trains parts of its models, by kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from lvlm_atlas.lab.parts.block_head import BlockHeadTraining
from lvlm_atlas.lab.parts.connectors import ConnectorTraining
from lvlm_atlas.lab.parts.depth import Depth
from lvlm_atlas.lab.parts.draft import KINDS, Draft
from lvlm_atlas.lab.parts.early_exit import EarlyExitTraining
from lvlm_atlas.lab.parts.elastic_head import ElasticHeadTraining
from lvlm_atlas.lab.parts.heads import DecoupledHeadTraining, FeatureHeadTraining
from lvlm_atlas.lab.parts.imitation import Imitation
from lvlm_atlas.lab.parts.last_layer import LastLayer
from lvlm_atlas.lab.parts.part_training import PartTraining
from lvlm_atlas.lab.parts.prompt_heads import (
    FusedHeadTraining,
    MultiTokenTraining,
    SteppedHeadTraining,
    VisionAwareHeadTraining,
)
from lvlm_atlas.lab.parts.scorer import FrameScorer, PatchScorer
from lvlm_atlas.lab.parts.seeing import SeeingDrafterTraining
from lvlm_atlas.lab.parts.selector import Selector
from lvlm_atlas.lab.parts.vision_encoders import EncoderImitation
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.schema.record import Record, Setting

FILE = Path(__file__).with_name("imitations.yaml")


class ImitationRecord(Record):
    """An entry of that file."""

    summary: str
    """What the part is."""
    reference: str
    """The technique, `module:Class`."""
    setting: dict[str, Setting] = Field(default_factory=dict)
    """Its parameters; those left out have their defaults."""
    relaxed: str | None = None
    """What stands in for it in training, `module:Class`."""
    frames: int = 1
    """Pictures of a request in which it asks for its modules."""
    features: bool = False
    """Whether it is an encoder, which first learns to give the features of the model's own."""
    kinds: dict[str, float] = Field(default_factory=lambda: dict(KINDS))
    """How often a step shows pictures of a kind."""
    steps: int | None = Field(default=None, ge=1)
    """Steps of training; None: those of its class."""


def _imitations() -> dict[str, Imitation]:
    entries = yaml.safe_load(FILE.read_text("utf-8")).items()
    records = {name: ImitationRecord.model_validate_json(json.dumps(each)) for name, each in entries}
    return {
        name: (EncoderImitation if each.features else Imitation)(**each.model_dump(exclude={"features"}))
        for name, each in records.items()
    }


TRAININGS: Mapping[str, PartTraining[Any]] = {
    "frame-scorer": FrameScorer(),
    "patch-scorer": PatchScorer(),
    "selector": Selector(),
    "depth-head": Depth(),
    "last-layer": LastLayer(),
    "draft": Draft(),
    "feature-head": FeatureHeadTraining(),
    "decoupled-head": DecoupledHeadTraining(),
    "seeing-drafter": SeeingDrafterTraining(),
    "multi-token-module": MultiTokenTraining(),
    "stepped-head": SteppedHeadTraining(),
    "fused-head": FusedHeadTraining(),
    "vision-aware-head": VisionAwareHeadTraining(),
    "block-head": BlockHeadTraining(),
    "elastic-head": ElasticHeadTraining(),
    "early-exit": EarlyExitTraining(),
    "connectors": ConnectorTraining(),
    **_imitations(),
}


def trainings(config: Config) -> dict[str, PartTraining[Any]]:
    """Those that suit models of these shapes."""
    return {name: training for name, training in TRAININGS.items() if training.suits(config)}
