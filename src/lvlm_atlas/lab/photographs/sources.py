"""What the lab's pictures are made of: packages, and which of their files show what."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints

FILE = Path(__file__).with_name("sources.yaml")
HELD_BACK_EVERY = 5
"""Of the photographs in order of their names, every so many-th is held back."""


class Record(BaseModel):
    """A part of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Package(Record):
    """A package of a registry, and the hash that its file must have."""

    registry: Literal["debian", "pypi"]
    version: str
    file: str
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    licence: str
    """SPDX expression of the files that are used."""


class Things(Record):
    """Cut-outs by the word for what they show."""

    package: str
    folder: str
    files: dict[str, str]


class Sources(Record):
    """The whole file."""

    packages: dict[str, Package]
    things: Things
    photographs: dict[str, tuple[str, ...]]
    """Glob patterns of photographs, by package."""
    clips: dict[str, tuple[str, ...]]
    held_back_clips: tuple[str, ...]
    """Names of clips that no training sees."""

    @property
    def digest(self) -> str:
        """Changes with anything that changes the pictures."""
        return sha256(self.model_dump_json().encode()).hexdigest()[:16]


@cache
def sources() -> Sources:
    """What the lab uses."""
    return Sources.model_validate(yaml.safe_load(FILE.read_text("utf-8")))
