"""Where else a technique or a system is found: the engines that ship it, the survey's other places."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from lvlm_atlas.schema.record import Id, Record, Ref, Source, Text


class Shipped(Record):
    """An inference engine or toolkit whose released code has it."""

    engine: Annotated[Id, Ref("engine")]
    """The engine."""
    since: Text | None = None
    """First release that has it; absent means that the source does not say."""
    how: Text
    """How it is switched on: a flag, a class or an argument."""
    departs: Text | None = None
    """What the engine does otherwise than the paper."""
    refuses: Text | None = None
    """What cannot be had beside it there: models, modes, other features."""
    source: Source
    """Where the engine's documentation or code says so."""


class Place(Record):
    """Another place at which the survey treats it, besides its stage and family."""

    family: Annotated[Id, Ref("family")] | None = None
    """The family that names it too; absent where the place is no family."""
    section: str | None = Field(default=None, pattern=r"^[0-9A-Z](\.[0-9]+)*$")
    """Section of the survey."""
    note: Text | None = None
    """What is said of it there."""

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if not (self.family or self.section):
            raise ValueError("names no place; give `family`, `section` or both")
        return self
