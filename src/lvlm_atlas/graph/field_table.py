"""Every field that a query may use, in the order in which help shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.shelves import UnknownIdError, folded
from lvlm_atlas.fault import suggestion
from lvlm_atlas.graph.fields import (
    ChoiceField,
    Field,
    ModelField,
    PaperField,
    ReliefField,
    TermField,
    YearField,
)
from lvlm_atlas.schema.technique import Technique

_PARTS = (
    "also_in", "interactions", "overheads", "parameters", "pitfalls", "reference", "reported",
    "shipped_in", "upstream",
)  # fmt: skip


def _parts(atlas: Atlas, technique: Technique) -> Iterator[str]:
    """What an entry has of the things that entries may lack."""
    yield from (part for part in _PARTS if getattr(technique, part))
    if any(result.technique == technique.id for m in atlas.measurements.values() for result in m.results):
        yield "measurement"


def _switched_on(technique: Technique, engine: str) -> str:
    """How an engine switches the technique on, and where that can be read."""
    shipments = (shipped for shipped in technique.shipped_in if shipped.engine == engine)
    return "; ".join(f"{shipped.how} [{shipped.source.paper}, {shipped.source.place}]" for shipped in shipments)


FIELDS: tuple[Field, ...] = (
    TermField(
        name="stage",
        doc="Stage that the survey files the technique under.",
        example="stage:prefilling",
        aliases=("phase",),
        vocabulary="stage",
        of=lambda t: (t.stage,),
    ),
    TermField(
        name="family",
        doc="Family or subfamily; a family finds its subfamilies.",
        example="family:kv-cache-compression",
        vocabulary="family",
        of=lambda t: (t.family,),
    ),
    ReliefField(
        name="relieves",
        doc="Wall that it moves: a stage, a bound, or both as `stage/bound`.",
        example="relieves:decoding/memory",
    ),
    TermField(
        name="bound",
        doc="Resource that it saves, at whichever stage.",
        example="bound:compute",
        aliases=("bottleneck",),
        vocabulary="bound",
        of=lambda t: (relief.bound for relief in t.relieves),
    ),
    TermField(
        name="acts_at",
        doc="Place in the pipeline where it acts.",
        example="acts_at:cache",
        aliases=("position",),
        vocabulary="position",
        of=lambda t: t.acts_at,
    ),
    TermField(
        name="mechanism",
        doc="How it saves.",
        example="mechanism:token-pruning",
        vocabulary="mechanism",
        of=lambda t: t.mechanism,
    ),
    TermField(
        name="signal",
        doc="What it decides by.",
        example="signal:text-to-vision-attention",
        aliases=("signals",),
        vocabulary="signal",
        of=lambda t: t.signals,
    ),
    TermField(
        name="need",
        doc="What must be there for it to work.",
        example="need:attention-map",
        aliases=("needs",),
        vocabulary="need",
        of=lambda t: t.needs,
    ),
    TermField(
        name="withholds",
        doc="Need that techniques behind it can no longer be given.",
        example="withholds:whole-grid",
        vocabulary="need",
        of=lambda t: t.withholds,
    ),
    TermField(
        name="effect",
        doc="Quantity of the request's state that it changes.",
        example="effect:kv.bits",
        aliases=("effects", "quantity"),
        vocabulary="quantity",
        of=lambda t: (effect.quantity for effect in t.effects),
    ),
    TermField(
        name="reported_on",
        doc="Benchmark on which a source reports scores; a broader one finds its parts.",
        example="reported_on:gqa",
        aliases=("benchmark",),
        vocabulary="benchmark",
        of=lambda t: (result.benchmark for e in t.reported for result in e.results if result.benchmark),
    ),
    TermField(
        name="reports",
        doc="Metric of speed, memory or work that a source reports.",
        example="reports:ttft",
        aliases=("metric",),
        vocabulary="metric",
        of=lambda t: (result.metric for e in t.reported for result in e.results if result.metric),
    ),
    ModelField(
        name="reported_for",
        doc="Model that reported numbers are of: its id in the catalog, or the name as printed.",
        example="reported_for:llava-1.5-7b",
        aliases=("model",),
    ),
    TermField(
        name="modality",
        doc="Input it applies to.",
        example="modality:video",
        vocabulary="modality",
        of=lambda t: t.modality,
    ),
    TermField(
        name="training",
        doc="What must be trained before it can be used.",
        example="training:none",
        vocabulary="training",
        of=lambda t: (t.training,),
    ),
    ChoiceField(
        name="query_aware",
        doc="Whether its choice depends on the prompt's text.",
        example="query_aware:true",
        choices=("true", "false"),
        of=lambda _, t: ("true" if t.query_aware else "false",),
    ),
    ChoiceField(
        name="status",
        doc="Whether a torch reference runs.",
        example="status:implemented",
        choices=get_args(Technique.model_fields["status"].annotation),
        of=lambda _, t: (t.status,),
    ),
    TermField(
        name="shipped_in",
        doc="Engine or toolkit whose released code has it, as far as a source says.",
        example="shipped-in:transformers",
        aliases=("engine", "runs_in"),
        vocabulary="engine",
        of=lambda t: (shipped.engine for shipped in t.shipped_in),
        detail=_switched_on,
    ),
    TermField(
        name="verified",
        doc="Against what the entry was checked.",
        example="verified:code",
        vocabulary="verification",
        of=lambda t: (t.verified,),
    ),
    PaperField(name="paper", doc="Key of a work that defines it.", example="paper:chen2024fastv"),
    YearField(
        name="year",
        doc="Year of the introducing paper; `>=`, `<=`, `>` and `<` compare.",
        example="year>=2024",
        ordered=True,
    ),
    ChoiceField(
        name="has",
        doc="Part that entries may lack and this one has.",
        example="has:upstream",
        choices=(*_PARTS, "measurement"),
        of=_parts,
    ),
)
"""All fields. A technique's edges to terms in the graph are its `TermField`s and `relieves`."""


def field_named(word: str) -> Field:
    """The field of that name or alias; case, `-` and `_` do not matter.

    Raises:
        UnknownIdError: there is none; the message suggests the nearest.
    """
    for field in FIELDS:
        if folded(word) in map(folded, (field.name, *field.aliases)):
            return field
    names = [field.name for field in FIELDS]
    raise UnknownIdError(f"no field {word!r}; {suggestion(word.lower().replace('-', '_'), names)}")
