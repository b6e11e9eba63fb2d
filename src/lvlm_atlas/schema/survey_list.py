"""A published list of techniques, held against the catalog: which of its works have an entry, and which do not yet."""

from typing import Annotated

from pydantic import Field

from lvlm_atlas.schema.record import Id, Record, Ref, Source, Text


class Work(Record):
    """One row of a list."""

    name: Text
    """What the list calls it."""
    technique: Id
    """Id of the entry that it has in the catalog, or would have: there need be none yet."""
    training_free: bool | None = None
    """Whether the list calls it training-free; absent where the list does not say."""
    url: str | None = Field(default=None, pattern=r"^https?://[^\s<>\"]+$")
    """The page that the list links to."""


class Section(Record):
    """Works under one heading."""

    heading: tuple[Text, ...] = Field(min_length=1)
    """The headings above them, outermost first."""
    stage: Annotated[Id, Ref("stage")]
    """The stage that the heading stands for."""
    works: tuple[Work, ...] = Field(min_length=1)
    """The rows, in their order."""


class SurveyList(Record):
    """A list of techniques that somebody published."""

    id: Id
    """Permanent id, equal to the file's name."""
    name: Text
    """What people call it."""
    summary: Text = Field(max_length=280)
    """What it lists."""
    source: Source
    """Where it can be read, and which state of it was read."""
    sections: tuple[Section, ...] = Field(min_length=1)
    """Its parts, in their order."""
