"""Records as rows: what the list formats print."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lvlm_atlas.graph.answer import Row as Found
from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.field_table import FIELDS
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.relations import relations
from lvlm_atlas.schema.technique import Technique

TECHNIQUE_COLUMNS = ("id", "stage", "family", "acts_at", "relieves", "training")
"""What a table of techniques shows."""


def by_pipeline(atlas: KnowledgeBase, techniques: Iterable[Technique]) -> list[Technique]:
    """The techniques in the order in which a request meets them."""
    return sorted(techniques, key=lambda t: (atlas.atlas.place(t), t.id))


def technique_row(atlas: KnowledgeBase, technique: Technique) -> dict[str, Any]:
    """A technique: its entry, with short forms of what a table shows, and its file."""
    entry = technique.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        **entry,
        "relieves": [f"{relief.stage}/{relief.bound}" for relief in technique.relieves],
        "file": atlas.atlas.paths[technique.id].as_posix(),
        "edges": [edge_row(edge) for edge in atlas.interactions(technique.id)],
    }


def answer_row(atlas: KnowledgeBase, row: Found) -> dict[str, Any]:
    """A row of an answer, with its reasons."""
    because = [
        {"condition": reason.condition, "found": reason.found, "edges": [edge_row(edge) for edge in reason.edges]}
        for reason in row.because
    ]
    text = "\n".join(
        "\n".join([f"{reason.condition} ← {reason.found}", *(f"  {_said(edge)}" for edge in reason.edges)])
        for reason in row.because
    )
    return {**technique_row(atlas, row.technique), "because": because, "because_text": text}


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


def neighbourhood(atlas: KnowledgeBase, id_: str, depth: int) -> list[Edge]:
    """The edges that a walk of `depth` steps from a technique can take."""
    near = {id_} if depth == 1 else {id_, *(t.id for t in atlas.within(id_, depth - 1))}
    return [edge for edge in atlas.edges if edge.ends & near]


def grammar_rows(atlas: KnowledgeBase) -> list[dict[str, Any]]:
    """The fields and relations of the query language."""
    rows: list[dict[str, Any]] = [
        {"id": field.name, "meaning": field.doc, "example": field.example, "values": list(field.known(atlas.atlas))}
        for field in FIELDS
    ]
    rows += [
        {
            "id": f"{relation.name}(X)",
            "meaning": f"Techniques that stand in the relation “{relation.reads}” to X.",
            "example": f"{relation.name}(fastv)",
        }
        for relation in relations(atlas.atlas)
    ]
    rows.append(
        {
            "id": "unknown-with(X)",
            "meaning": "No edge settles the compatibility with X.",
            "example": "unknown-with(fastv)",
        }
    )
    rows.append(
        {
            "id": "within(X, N)",
            "meaning": "At most N interactions away from X; a third argument restricts them to one relation.",
            "example": "within(fastv, 2, conflicts-with)",
        }
    )
    return rows


def term_rows(atlas: KnowledgeBase, vocabulary: str | None) -> list[dict[str, Any]]:
    """The vocabularies, or the terms of one."""
    if vocabulary is None:
        return [
            {"id": name, "name": f"{len(v.terms)} terms", "definition": v.definition}
            for name, v in sorted(atlas.atlas.vocabularies.items())
        ]
    if vocabulary not in atlas.atlas.vocabularies:
        atlas.atlas.term(vocabulary, "")  # raises, and suggests
    return [
        term.model_dump(mode="json", exclude_none=True, exclude_defaults=True) for term in atlas.atlas.terms(vocabulary)
    ]


def _said(edge: Edge) -> str:
    return f"{edge.start} {edge.kind} {edge.end} [{edge.evidence}; {edge.source}]: {edge.reason}"
