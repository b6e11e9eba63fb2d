"""Records as rows: what the list formats print."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lvlm_atlas.graph.answer import Row as Found
from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.guide import guide
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.neighbourhood import Neighbour
from lvlm_atlas.schema.technique import Technique

TECHNIQUE_COLUMNS = ("id", "stage", "acts_at", "saves", "training")
"""What a table of techniques shows."""


def by_pipeline(atlas: KnowledgeBase, techniques: Iterable[Technique]) -> list[Technique]:
    """The techniques in the order in which a request meets them."""
    return sorted(techniques, key=lambda t: (atlas.atlas.place(t), t.id))


def technique_row(atlas: KnowledgeBase, technique: Technique) -> dict[str, Any]:
    """A technique: its entry, with its reliefs as `stage/bound`, and its file."""
    entry = technique.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        **entry,
        "relieves": [f"{relief.stage}/{relief.bound}" for relief in technique.relieves],
        "saves": _saves(technique),
        "file": atlas.atlas.paths[technique.id].as_posix(),
    }


def _saves(technique: Technique) -> str:
    """The reliefs by stage, in words that a narrow column can break."""
    stages = dict.fromkeys(relief.stage for relief in technique.relieves)
    return "; ".join(
        f"{stage}: {', '.join(relief.bound for relief in technique.relieves if relief.stage == stage)}"
        for stage in stages
    )


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


def neighbour_row(neighbour: Neighbour) -> dict[str, Any]:
    """An edge as a walk outwards from a technique meets it."""
    words = f"{neighbour.id} {neighbour.reads} {neighbour.other}"
    return {"step": neighbour.step, "relation": words, **edge_row(neighbour.edge)}


def grammar_rows(atlas: KnowledgeBase) -> list[dict[str, Any]]:
    """The fields, relations and operators of the query language."""
    language = guide(atlas.atlas)
    entries = (*language.fields, *language.relations, *language.operators)
    return [{"id": e.written, "meaning": e.doc, "example": e.example, "values": list(e.values)} for e in entries]


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
