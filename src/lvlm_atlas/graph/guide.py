"""How to write a query, as data: for help, completion, the site's guide and the tests."""

from __future__ import annotations

from dataclasses import dataclass

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.field_table import FIELDS
from lvlm_atlas.graph.relations import relations


@dataclass(frozen=True)
class Entry:
    """One thing that a query may contain."""

    written: str
    """How it is written."""
    doc: str
    """What it finds."""
    example: str
    """A query that uses it."""
    values: tuple[str, ...] = ()
    """The values it can have, where they can be listed."""
    synonyms: tuple[str, ...] = ()
    """Other ways to write it."""


@dataclass(frozen=True)
class Question:
    """A question in words, and the query that answers it."""

    words: str
    query: str


@dataclass(frozen=True)
class Guide:
    """The whole query language."""

    fields: tuple[Entry, ...]
    relations: tuple[Entry, ...]
    operators: tuple[Entry, ...]
    questions: tuple[Question, ...]


QUESTIONS = (
    Question("What makes decoding cheaper in memory without any training?", "relieves:decoding/memory training:none"),
    Question("What can be dropped in beside FastV, as far as a source says?", "works-with(fastv)"),
    Question("Which pairings with FastV has nobody settled yet?", "unknown-with(fastv) and status:implemented"),
    Question("What cuts vision tokens without reading the prompt?", "effect:vision_tokens query_aware:false"),
    Question("What needs a full attention map and so loses fused kernels?", "need:attention-map"),
    Question("What can be switched on in transformers today?", "engine:transformers"),
    Question("Which video techniques are recent and come with code?", "modality:video year>=2024 has:upstream"),
    Question("What relieves prefilling and leaves attention kernels alone?", "relieves:prefilling -acts_at:attention"),
    Question("What conflicts with anything in the decoding loop?", "conflicts-with(acts_at:decode-loop)"),
    Question("What is like FastV, but needs no row of attention?", "like(fastv) -need:attention-row"),
    Question("What lies within one conflict of FastV?", "within(fastv, 1, conflicts-with)"),
)  # fmt: skip
"""Questions worth asking, as examples."""

OPERATORS = (
    Entry("a b, a and b", "What both find.", "stage:prefilling training:none"),
    Entry("a or b", "What either finds; `and` binds tighter.", "stage:encoding or stage:prefilling"),
    Entry("-a, not a", "What it does not find.", "stage:prefilling -training:none"),
    Entry("( )", "Groups.", "(stage:encoding or stage:prefilling) modality:video"),
    Entry(
        "word, \"a phrase\"",
        "The technique of that id or name; if there is none, those whose id, name, aliases or summary hold it.",
        "fastv",
    ),
)  # fmt: skip


def guide(atlas: Atlas) -> Guide:
    """The query language over one atlas."""
    kinds = [
        Entry(f"{relation.name}(X)", f"What {relation.reads} X; X is a query.", f"{relation.name}(fastv)")
        for relation in relations(atlas)
    ]
    kinds += [
        Entry("works-with(X)", "What a source says works beside X.", "works-with(fastv)"),
        Entry("breaks-with(X)", "What is known to conflict with X.", "breaks-with(fastv)"),
        Entry("unknown-with(X)", "What nothing settles beside X: not the same as compatible.", "unknown-with(fastv)"),
        Entry("within(X, N)", "What N interactions or fewer join to X, whichever way they point.", "within(fastv, 2)"),
        Entry("like(X)", "What saves as X does and decides by the same, or is of its family.", "like(fastv)"),
        Entry("within(X, N, KIND)", "The same over one kind.", "within(fastv, 2, conflicts-with)"),
    ]
    fields = tuple(
        Entry(f"{f.name}:", f.doc, f.example, f.known(atlas), tuple(f"{alias}:" for alias in f.aliases)) for f in FIELDS
    )
    return Guide(fields, tuple(kinds), OPERATORS, QUESTIONS)
