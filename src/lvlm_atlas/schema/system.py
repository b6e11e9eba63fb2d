"""A serving system, or a lossless feature of an engine: what schedules requests, not what a model computes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lvlm_atlas.schema.elsewhere import Shipped
from lvlm_atlas.schema.expression import Amount
from lvlm_atlas.schema.record import Day, Id, PaperKey, Record, Ref, Source, Text
from lvlm_atlas.schema.technique import Interaction, Upstream


class Decision(Record):
    """One decision that the system takes, and by which rule."""

    decides: Literal["admission", "batching", "routing", "ordering", "placement", "scaling", "caching"]
    """What is decided: who is let in, what runs together, where it runs, in which order, what stays where."""
    rule: Text
    """The rule, in words and formulas."""
    source: Source
    """Where the rule can be read."""


class Resource(Record):
    """A kind of instance or a share of a device that the system hands out."""

    name: Text
    """What the system calls it."""
    stages: tuple[Annotated[Id, Ref("stage")], ...] = Field(min_length=1)
    """The stages it runs."""
    holds: Text
    """What lies there: weights, embeddings, blocks of the cache."""


class Transfer(Record):
    """What one request moves between two resources."""

    start: Text
    """Where it comes from."""
    end: Text
    """Where it goes."""
    carries: Text
    """What is moved, and when."""
    byte: Amount
    """Bytes a request, in the symbols of the taxonomy."""


class Figure(Record):
    """A number that a source reports of the system, with the setting it belongs to."""

    metric: Annotated[Id, Ref("metric")]
    """What was measured."""
    value: Text
    """The number as printed, with its unit and its baseline."""
    setting: Text
    """Models, load and hardware, as far as the source says."""
    source: Source
    """Where it is printed."""


class System(Record):
    """One system. It acts on requests and devices, so that no reference of the LVLM can run it."""

    id: Id
    """Permanent id, equal to the file's name."""
    name: Text
    """Its own name."""
    aliases: tuple[Text, ...] = ()
    """Other names and spellings."""
    kind: Literal["serving-system", "engine-feature"]
    """A system of its own, or a feature that engines have."""
    summary: Text = Field(max_length=280)
    """What it does and what that buys, in one sentence."""
    paper: PaperKey
    """The work that introduces it; of a feature, the engine's own."""
    also: tuple[PaperKey, ...] = ()
    """Further works that define it."""
    family: Annotated[Id, Ref("family")] | None = None
    """Where the survey files it; a feature of an engine has no place there."""
    stages: tuple[Annotated[Id, Ref("stage")], ...] = Field(min_length=1)
    """The stages whose work it schedules, spares or moves."""
    modality: tuple[Annotated[Id, Ref("modality")], ...] = Field(min_length=1)
    """Inputs it treats."""
    lossless: bool
    """Whether each answer is the one that the model gives without it, up to the order of floating-point sums."""
    explanation: Text
    """How it works and why, in a paragraph."""
    policy: tuple[Decision, ...] = Field(min_length=1)
    """What it decides, and how."""
    resources: tuple[Resource, ...] = ()
    """What it runs on."""
    communication: tuple[Transfer, ...] = ()
    """What moves between its resources; none where all happens on one device."""
    reported: tuple[Figure, ...] = ()
    """What sources report of it. Nothing is measured here."""
    relations: tuple[Interaction, ...] = ()
    """How it gets along with techniques."""
    shipped_in: tuple[Shipped, ...] = ()
    """Engines whose released code has it."""
    code: Literal["released", "partly-released", "none"]
    """Whether its code can be had: all of it, some of its policy, or nothing."""
    upstream: Upstream | None = None
    """The authors' code."""
    verified: Annotated[Id, Ref("verification")]
    """Against what the record was checked."""
    updated: Day
    """Day of the last change of substance, quoted, as `'2026-11-22'`."""

    @field_validator("summary")
    @classmethod
    def _is_a_sentence(cls, text: str) -> str:
        if not text.endswith((".", "!", "?")):
            raise ValueError("is not a sentence; end it with a full stop")
        return text

    @model_validator(mode="after")
    def _is_consistent(self) -> System:
        if (self.kind == "serving-system") != (self.family is not None):
            raise ValueError("a serving-system has a `family`, an engine-feature has none; correct one of the two")
        if self.upstream and self.code == "none":
            raise ValueError("names `upstream` code and says `code: none`; correct one of the two")
        return self
