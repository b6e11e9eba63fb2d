"""The page of a technique: what it does, what that saves and costs, and how it gets along with others."""

from __future__ import annotations

from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.neighbourhood import by_law, informative_first
from lvlm_atlas.graph.relations import reading
from lvlm_atlas.graph.results import results_of
from lvlm_atlas.schema.measurement import Measurement, SmokeResult
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.site.content import Content, Page
from lvlm_atlas.site.effect import effect_of, pictured
from lvlm_atlas.site.markup import bare
from lvlm_atlas.site.source import source_of
from lvlm_atlas.site.words import formula

SHOWN = 10
"""Rows of a table of interactions, and techniques of a list, that the page shows; the rest is folded or left to the
JSON beside it."""


def technique_page(content: Content, technique: Technique) -> Page:
    """The page."""
    atlas, kb = content.atlas, content.kb
    source = source_of(technique.reference)
    path = content.routes.path("technique", technique.id)
    rows = _rows(content, technique)
    return Page(
        path=path,
        title=technique.name,
        template="technique.md.j2",
        description=bare(technique.summary),
        tags=_tags(content, technique),
        context={
            "t": technique,
            "lists": content.listed(technique.id),
            "paper": atlas.papers[technique.paper],
            "source": source,
            "steps": [
                (step, source.lines(step.code) if source and step.code else None) for step in technique.algorithm
            ],
            "effects": [formula(effect, technique.parameters) for effect in technique.effects],
            "edges": [row for row in rows if row[2].evidence != "predicted"],
            "predicted": [row for row in rows if row[2].evidence == "predicted"],
            "law": by_law(kb, technique.id),
            "shown": SHOWN,
            "effect": (effect := effect_of(content, technique)),
            "effect_picture": pictured(content, effect),
            "verdicts": _verdicts(content, technique),
            "reported": results_of(atlas, technique),
            "measured": _measured(content, technique),
            "file": atlas.paths[technique.id].as_posix(),
            "stem": path.rpartition("/")[2].removesuffix(".md"),
        },
    )  # fmt: skip


def _rows(content: Content, technique: Technique) -> list[tuple[str, str, Edge]]:
    """How the technique stands to each other one, as: reading, the other's id, the edge; the most informative first."""
    rows = [
        (reading(content.atlas, edge, technique.id), edge.other(technique.id), edge)
        for edge in content.kb.interactions(technique.id)
    ]
    return sorted(rows, key=lambda row: (*informative_first(row[2]), row[1], row[0]))


def _verdicts(content: Content, technique: Technique) -> dict[str, tuple[list[Technique], int]]:
    """For each verdict the techniques that act nearest by, in the order of the pages, and how many it holds for."""
    place = content.atlas.place
    by_value: dict[str, list[Technique]] = {"works": [], "breaks": [], "unknown": []}
    for other in content.techniques:
        if other is not technique:
            by_value[content.kb.relation(technique.id, other.id).value].append(other)
    here = place(technique)
    nearest = {
        value: {other.id for other in sorted(others, key=lambda other: abs(place(other) - here))[:SHOWN]}
        for value, others in by_value.items()
    }
    return {
        value: ([other for other in others if other.id in nearest[value]], len(others))
        for value, others in by_value.items()
    }


def _measured(content: Content, technique: Technique) -> list[tuple[Measurement, SmokeResult]]:
    """Our own runs of it, the latest first."""
    results = [
        (measurement, result)
        for measurement in content.atlas.measurements.values()
        for result in measurement.results
        if result.technique == technique.id
    ]
    return sorted(results, key=lambda pair: (pair[0].date, pair[0].id), reverse=True)


def _tags(content: Content, technique: Technique) -> tuple[str, ...]:
    """What to browse by: mechanisms, inputs, and what it asks of its user."""
    atlas = content.atlas
    names = [atlas.term("mechanism", id_).name or id_ for id_ in technique.mechanism]
    names += [atlas.term("modality", id_).name or id_ for id_ in technique.modality]
    names.append("Training-free" if technique.training == "none" else f"Training: {technique.training}")
    names.append("Query-aware" if technique.query_aware else "Query-agnostic")
    return tuple(dict.fromkeys([*names, technique.status.capitalize()]))
