"""What records of the lab have in common: where and on what they ran."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lvlm_atlas.schema.measurement import Machine
from lvlm_atlas.schema.record import Day, Id, Record

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class LabRun(Record):
    """A run on the lab's trained models. Written by the tool alone."""

    id: str
    """Also the file's name."""
    date: Day
    """Day of the run; where models came later, of the last one, as what follows down to `machine`."""
    commit: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}(-dirty)?$")
    """Commit of the code, where it ran in a checkout."""
    version: str
    """Version of lvlm-atlas."""
    machine: Machine
    """Where it ran."""
    checkpoints: dict[Id, Hash]
    """Trained models, and the hashes of their weights."""
    parts: dict[Id, Hash] = Field(default_factory=dict)
    """Trained parts of these models that techniques used, and the hashes of their weights."""
