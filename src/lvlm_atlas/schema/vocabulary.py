"""The language of the atlas: a file per vocabulary, a term per word."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lvlm_atlas.schema.record import Id, Record, Ref, Source, Text


class Term(Record):
    """One word of a vocabulary. A term that was renamed or split stays, and says where it went."""

    id: Id
    """Permanent name, unique in its vocabulary; used in entries and queries."""
    name: Text | None = None
    """Name shown to readers."""
    definition: Text | None = None
    """What the term means, in one sentence."""
    source: Source | None = None
    """Where the term is taken from."""
    section: str | None = Field(default=None, pattern=r"^[0-9A-Z](\.[0-9]+)*$")
    """Section of the survey that treats it."""
    aliases: tuple[Text, ...] = ()
    """Other spellings that people search for."""
    parent: Id | None = None
    """The broader term of the same vocabulary; a query for the parent finds its children too."""
    moved: Id | None = None
    """The term's new id: this one was renamed."""
    split: tuple[Id, ...] = ()
    """The ids of the terms this one was split into."""

    @model_validator(mode="after")
    def _is_live_or_gone(self) -> Self:
        if self.moved and self.split:
            raise ValueError("has both `moved` and `split`; keep one")
        if self.gone:
            return self
        missing = [key for key in ("name", "definition", "source") if getattr(self, key) is None]
        if missing:
            raise ValueError(f"lacks {', '.join(f'`{key}`' for key in missing)}")
        return self

    @property
    def gone(self) -> bool:
        """Whether the id only forwards to others."""
        return bool(self.moved or self.split)


class StageTerm(Term):
    """A stage of the pipeline, with the survey's table 1 row."""

    order: int | None = None
    """Place in the pipeline, from 1."""
    metric: Annotated[Id, Ref("metric")] | None = None
    """The user-facing metric the stage decides."""
    bound: Annotated[Id, Ref("bound")] | None = None
    """What limits the stage, in general."""
    intensity: Text | None = None
    """Arithmetic intensity, in words."""
    complexity: Text | None = None
    """Complexity as the survey prints it."""
    challenge: Text | None = None
    """What LVLMs add to the stage's cost."""


class FamilyTerm(Term):
    """A family of techniques, or (with `parent`) a subfamily."""

    stage: Annotated[Id, Ref("stage")] | None = None
    """The stage the family belongs to; a subfamily takes its parent's."""
    any_stage: bool = False
    """Whether its techniques belong to several stages, in place of `stage`; each entry then says its own."""
    baseline: bool = False
    """Whether its techniques are there to compare others with; a plan searches them only where it is asked to."""


class PositionTerm(Term):
    """A place in the pipeline where a technique can act: an extension point of the reference LVLM."""

    order: int | None = None
    """Place in the pipeline, from 1; what acts earlier changes what comes later."""
    stage: Annotated[Id, Ref("stage")] | None = None
    """The stage in which the place lies."""
    exclusive: bool = False
    """Whether one technique at most can own the place in one stack."""
    withholds: tuple[Annotated[Id, Ref("need")], ...] = ()
    """Needs that no other technique of the stack can be given once one acts at the place."""


class InteractionTerm(Term):
    """A kind of edge between two techniques."""

    symmetric: bool = False
    """Whether A-B says the same as B-A."""
    inverse: Text | None = None
    """How the edge reads from its target, if it is directed."""


class NeedTerm(Term):
    """What a technique must be given."""

    follows_from: tuple[Annotated[Id, Ref("quantity")], ...] = ()
    """Quantities that only who has this need can change."""


class QuantityTerm(Term):
    """A quantity of the request's state that an effect changes."""

    unit: Text | None = None
    """Unit of the quantity."""
    position: Annotated[Id, Ref("position")] | None = None
    """Where in the pipeline the quantity is decided."""
    also_at: tuple[Annotated[Id, Ref("position")], ...] = ()
    """Earlier positions at which it can be decided too."""
    supplies: bool = False
    """Whether leaving less of it leaves less for every later place."""
    demands: bool = False
    """Whether its cost grows with what the places before left."""


class SymbolTerm(Term):
    """A symbol that formulas may use besides the parameters; its id is kept as the survey writes it."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=16)]
    """The symbol, as in formulas."""
    unit: Text | None = None
    """Unit of the symbol's value."""


class MetricTerm(Term):
    """A metric by which inference is judged."""

    formula: Text | None = None
    """Definition as a formula."""
    unit: Text | None = None
    """Unit of the metric."""
    better: Literal["lower", "higher"] | None = None
    """Which direction is good."""


class BenchmarkTerm(Term):
    """A benchmark by which the quality of answers is judged, or (with `parent`) a part of one that is scored apart."""

    tests: Text | None = None
    """What it tests, in the survey's words for competencies where its table lists it."""
    modality: Annotated[Id, Ref("modality")] | None = None
    """Input of its tasks."""
    metric: Text | None = None
    """What its score counts, such as accuracy or CIDEr."""
    unit: Text | None = None
    """Unit of the score."""
    better: Literal["lower", "higher"] | None = None
    """Which direction is good."""
    highest: float | None = None
    """The highest score that is possible, where there is one."""


class EngineTerm(Term):
    """An inference engine or a toolkit that ships techniques."""

    repository: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$")
    """`owner/name` of its code on GitHub."""


class Vocabulary(Record):
    """Base of the vocabulary files."""

    vocabulary: str
    """Which vocabulary the file holds."""
    definition: Text
    """What the terms of the file are for."""
    terms: tuple[Term, ...] = Field(min_length=1)
    """The terms, in the order they are shown."""


class PlainVocabulary(Vocabulary):
    """A vocabulary whose terms need no fields of their own."""

    vocabulary: Literal["bound", "mechanism", "signal", "evidence", "training", "modality", "verification"]


class StageVocabulary(Vocabulary):
    """The stages of the pipeline."""

    vocabulary: Literal["stage"]
    terms: tuple[StageTerm, ...] = Field(min_length=1)


class FamilyVocabulary(Vocabulary):
    """The families and subfamilies of the survey's figure 3."""

    vocabulary: Literal["family"]
    terms: tuple[FamilyTerm, ...] = Field(min_length=1)


class PositionVocabulary(Vocabulary):
    """The places in the pipeline where techniques act."""

    vocabulary: Literal["position"]
    terms: tuple[PositionTerm, ...] = Field(min_length=1)


class InteractionVocabulary(Vocabulary):
    """The kinds of edges between techniques."""

    vocabulary: Literal["interaction"]
    terms: tuple[InteractionTerm, ...] = Field(min_length=1)


class NeedVocabulary(Vocabulary):
    """What techniques must be given."""

    vocabulary: Literal["need"]
    terms: tuple[NeedTerm, ...] = Field(min_length=1)


class QuantityVocabulary(Vocabulary):
    """The quantities that effects change."""

    vocabulary: Literal["quantity"]
    terms: tuple[QuantityTerm, ...] = Field(min_length=1)


class SymbolVocabulary(Vocabulary):
    """The symbols that formulas may use."""

    vocabulary: Literal["symbol"]
    terms: tuple[SymbolTerm, ...] = Field(min_length=1)


class MetricVocabulary(Vocabulary):
    """The metrics of efficient inference."""

    vocabulary: Literal["metric"]
    terms: tuple[MetricTerm, ...] = Field(min_length=1)


class BenchmarkVocabulary(Vocabulary):
    """The benchmarks whose scores entries report."""

    vocabulary: Literal["benchmark"]
    terms: tuple[BenchmarkTerm, ...] = Field(min_length=1)


class EngineVocabulary(Vocabulary):
    """The engines and toolkits that ship techniques."""

    vocabulary: Literal["engine"]
    terms: tuple[EngineTerm, ...] = Field(min_length=1)


AnyVocabulary = Annotated[
    PlainVocabulary
    | StageVocabulary
    | FamilyVocabulary
    | PositionVocabulary
    | InteractionVocabulary
    | NeedVocabulary
    | QuantityVocabulary
    | SymbolVocabulary
    | MetricVocabulary
    | BenchmarkVocabulary
    | EngineVocabulary,
    Field(discriminator="vocabulary"),
]
"""A file of `taxonomy/`, told apart by its `vocabulary` key."""
