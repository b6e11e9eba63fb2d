"""Records as rows: what the list formats print."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.cli.options import Listing
from lvlm_atlas.schema.technique import Technique

if TYPE_CHECKING:
    from lvlm_atlas.graph.answer import Row as Found
    from lvlm_atlas.graph.edges import Edge
    from lvlm_atlas.graph.interactions import Interactions
    from lvlm_atlas.graph.neighbourhood import Neighbour, Remainder

TECHNIQUE_COLUMNS = ("id", "stage", "year", "acts_at", "saves", "training", "summary")
"""What a list of techniques has in formats for programs."""
TECHNIQUE_LINE = ("id", "stage", "summary")
"""What a table of techniques shows, a line each."""
SHOWN = 3
"""Edges of one kind that a table shows of one technique."""


def by_pipeline(atlas: Atlas, techniques: Iterable[Technique]) -> list[Technique]:
    """The techniques in the order in which a request meets them."""
    return sorted(techniques, key=lambda t: (atlas.place(t), t.id))


def technique_rows(atlas: Atlas, techniques: Iterable[Technique], listing: Listing) -> list[dict[str, Any]]:
    """The techniques in pipeline order: whole entries where a program reads them, else what the listing shows."""
    ordered = by_pipeline(atlas, techniques)
    if listing in (Listing.json, Listing.jsonl):
        return [whole_row(atlas, technique) for technique in ordered]
    if listing in (Listing.table, Listing.ids):  # needs no bibliography
        return [{name: getattr(technique, name) for name in TECHNIQUE_LINE} for technique in ordered]
    return [table_row(atlas, technique) for technique in ordered]


def technique_columns(listing: Listing) -> tuple[str, ...]:
    """The columns of a list of techniques."""
    return TECHNIQUE_LINE if listing is Listing.table else TECHNIQUE_COLUMNS


def table_row(atlas: Atlas, technique: Technique) -> dict[str, Any]:
    """What a list shows of a technique."""
    return {
        "id": technique.id,
        "stage": technique.stage,
        "year": atlas.papers[technique.paper].year,
        "acts_at": list(technique.acts_at),
        "saves": _saves(technique),
        "training": technique.training,
        "summary": technique.summary,
    }


def whole_row(atlas: Atlas, technique: Technique) -> dict[str, Any]:
    """A technique's whole entry, with what a table shows, and its file."""
    entry = technique.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**entry, **table_row(atlas, technique), "file": atlas.paths[technique.id].as_posix()}


def _saves(technique: Technique) -> str:
    """The reliefs by stage, in words that a narrow column can break."""
    stages = dict.fromkeys(relief.stage for relief in technique.relieves)
    return "; ".join(
        f"{stage}: {', '.join(relief.bound for relief in technique.relieves if relief.stage == stage)}"
        for stage in stages
    )


def reasons(row: Found) -> dict[str, Any]:
    """Why a row is in an answer: `edges` for programs, `text` for people."""
    because = [
        {"condition": reason.condition, "found": reason.found, "edges": [edge_row(edge) for edge in reason.edges]}
        for reason in row.because
    ]
    text = "\n".join(
        "\n".join([f"{reason.condition} ← {reason.found}", *(f"  {_said(edge)}" for edge in reason.edges)])
        for reason in row.because
    )
    return {"edges": because, "text": text}


def edge_row(edge: Edge) -> dict[str, Any]:
    """An edge."""
    link = "—" if edge.symmetric else "→"
    return {
        "id": f"{edge.start} {link} {edge.kind} {link} {edge.end}",
        "start": edge.start,
        "kind": edge.kind,
        "end": edge.end,
        "symmetric": edge.symmetric,
        "evidence": edge.evidence,
        "reason": edge.reason,
        "source": edge.source,
    }


def neighbour_row(neighbour: Neighbour) -> dict[str, Any]:
    """An edge as a walk outwards from a technique meets it."""
    words = f"{neighbour.id} {neighbour.reads} {neighbour.other}"
    return {"step": neighbour.step, "relation": words, **edge_row(neighbour.edge)}


def neighbour_rows(neighbours: Iterable[Neighbour]) -> list[dict[str, Any]]:
    """Edges for a table that can be read: of each kind a few, then how many more there are and to whom."""
    from lvlm_atlas.graph.neighbourhood import Remainder, folded

    return [
        _remainder_row(row) if isinstance(row, Remainder) else neighbour_row(row) for row in folded(neighbours, SHOWN)
    ]


def path_rows(kb: Interactions, one: str, two: str) -> list[dict[str, Any]]:
    """The edges of a shortest way between two techniques, and those that laws derive if they are neighbours."""
    from lvlm_atlas.graph.relations import reading

    steps = kb.path(one, two)
    if len(steps) < 2:
        steps = (kb.between(one, two),)
    rows, near = [], one
    for step, edges in enumerate(steps, start=1):
        far = edges[0].other(near) if edges else two
        for edge in edges:
            words = f"{near} {reading(kb.atlas, edge, near)} {far}"
            rows.append({"step": step, "relation": words, **edge_row(edge)})
        near = far
    return rows


def _remainder_row(rest: Remainder) -> dict[str, Any]:
    return {
        "relation": f"{rest.id} {rest.reads} {len(rest.others)} more",
        "evidence": "predicted" if rest.predicted else "",
        "reason": ", ".join(rest.others),
        "source": "--all",
    }


def grammar_rows(atlas: Atlas) -> list[dict[str, Any]]:
    """The fields, relations and operators of the query language."""
    from lvlm_atlas.graph.guide import guide

    language = guide(atlas)
    entries = (*language.fields, *language.relations, *language.operators)
    return [
        {
            "id": e.written, "meaning": e.doc, "example": e.example, "synonyms": list(e.synonyms),
            "values": list(e.values),
        }
        for e in entries
    ]  # fmt: skip


def term_rows(atlas: Atlas, vocabulary: str | None) -> list[dict[str, Any]]:
    """The vocabularies, or the terms of one."""
    if vocabulary is None:
        return [
            {"id": name, "name": f"{len(v.terms)} terms", "definition": v.definition}
            for name, v in sorted(atlas.vocabularies.items())
        ]
    if vocabulary not in atlas.vocabularies:
        atlas.term(vocabulary, "")  # raises, and suggests
    return [term.model_dump(mode="json", exclude_none=True, exclude_defaults=True) for term in atlas.terms(vocabulary)]


def _said(edge: Edge) -> str:
    return f"{edge.start} {edge.kind} {edge.end} [{edge.evidence}; {edge.source}]: {edge.reason}"
