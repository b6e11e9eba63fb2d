"""The page of a technique: what it does, what that saves and costs, and how it gets along with others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lvlm_atlas.graph.edges import COMPUTED, Edge
from lvlm_atlas.graph.neighbourhood import by_law, informative_first
from lvlm_atlas.graph.relations import reading
from lvlm_atlas.graph.results import results_of
from lvlm_atlas.roofline import units
from lvlm_atlas.schema.measurement import Measurement, SmokeResult
from lvlm_atlas.schema.technique import Step, Technique
from lvlm_atlas.site.content import Content, Page
from lvlm_atlas.site.curves import Curves
from lvlm_atlas.site.effect import effect_of, pictured
from lvlm_atlas.site.effect_words import in_words
from lvlm_atlas.site.markup import bare
from lvlm_atlas.site.source import Snippet, Source, source_of
from lvlm_atlas.site.words import formula

SHOWN = 10
"""Rows of a table of interactions, and techniques of a list, that the page shows; the rest is folded or left to the
JSON beside it."""
STATED = {"works": 2, "breaks": 2, "unknown": 1}
"""Neighbours of each verdict that the page shows unfolded."""
NUMBERS = 3
"""Reported numbers that the page shows unfolded."""
SETTINGS = 7
"""Parameters that the page shows unfolded."""
GAINS = ("Time to first token", "Time per output token", "Cache after prefilling", "Device memory")
"""What of the predicted effect stands at the top of the page, where it changes."""


@dataclass(frozen=True)
class Neighbour:
    """Another technique, and all that is known of the two together."""

    id: str
    verdict: str
    """`works`, `breaks` or `unknown`."""
    edges: tuple[tuple[str, Edge], ...]
    """Each with how it reads from this page's technique."""

    @property
    def stated(self) -> bool:
        """Whether a source or an argument says it, and not only a rule."""
        return any(edge.evidence != "derived" for _, edge in self.edges)


def technique_page(content: Content, technique: Technique) -> Page:
    """The page."""
    atlas, kb = content.atlas, content.kb
    source = source_of(technique.reference)
    path = content.routes.path("technique", technique.id)
    rows = _rows(content, technique)
    known = _neighbours(content, technique, [row for row in rows if row[2].evidence not in COMPUTED])
    effect = effect_of(content, technique)
    file = atlas.paths[technique.id].as_posix()
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
            "steps": _steps(technique, source),
            "effects": [formula(effect, technique.parameters) for effect in technique.effects],
            "effect_words": [(each.quantity, in_words(each, technique.parameters)) for each in technique.effects],
            "stated": (first := _first([each for each in known if each.stated])),
            "more_stated": [each for each in known if each.stated and each not in first],
            "derived": [each for each in known if not each.stated],
            "predicted": [row for row in rows if row[2].evidence == "predicted"],
            "together": [row for row in rows if row[2].evidence == "measured"],
            "law": by_law(kb, technique.id),
            "shown": SHOWN,
            "numbers": NUMBERS,
            "settings": SETTINGS,
            "effect": effect,
            "gains": [(name, gain) for name, _, _, gain in effect.rows if name in GAINS and gain != units.NO_CHANGE],
            "effect_picture": pictured(content, effect),
            "verdicts": _verdicts(content, technique),
            "reported": results_of(atlas, technique),
            "measured": _measured(content, technique),
            "answers": Curves(atlas).of(technique),
            "file": file,
            "edit": content.published.edit(file),
            "report": content.published.report(f"{technique.id}: "),
            "stem": path.rpartition("/")[2].removesuffix(".md"),
        },
    )  # fmt: skip


def _steps(technique: Technique, source: Source | None) -> list[tuple[Step, Snippet | None, int | None]]:
    """Each step with its code, or with the number of the earlier step that has the same."""
    first: dict[str, int] = {}
    steps = []
    for number, step in enumerate(technique.algorithm, 1):
        snippet = source.snippet(step.code) if source and step.code else None
        again = first.get(snippet.html) if snippet else None
        if snippet and again is None:
            first[snippet.html] = number
        steps.append((step, snippet, again))
    return steps


def _neighbours(content: Content, technique: Technique, rows: list[tuple[str, str, Edge]]) -> list[Neighbour]:
    """One row a neighbour: conflicts first, then what works, then what is only said of the two."""
    by_other: dict[str, list[tuple[str, Edge]]] = {}
    for reads, other, edge in rows:
        by_other.setdefault(other, []).append((reads, edge))
    known = [
        Neighbour(other, content.kb.relation(technique.id, other).value, tuple(edges))
        for other, edges in by_other.items()
    ]
    order = ("breaks", "works", "unknown")
    return sorted(known, key=lambda each: order.index(each.verdict))


def _rows(content: Content, technique: Technique) -> list[tuple[str, str, Edge]]:
    """How the technique stands to each other one, as: reading, the other's id, the edge; the most informative first."""
    rows = [
        (reading(content.atlas, edge, technique.id), edge.other(technique.id), edge)
        for edge in content.kb.interactions(technique.id)
    ]
    return sorted(rows, key=lambda row: (*informative_first(row[2]), row[1], row[0]))


def _first(known: list[Neighbour]) -> list[Neighbour]:
    """The first few of each verdict."""
    taken = Counter[str]()
    first = []
    for each in known:
        taken[each.verdict] += 1
        if taken[each.verdict] <= STATED[each.verdict]:
            first.append(each)
    return first


def _verdicts(content: Content, technique: Technique) -> Counter[str]:
    """For how many other techniques each verdict holds."""
    return Counter(
        content.kb.relation(technique.id, other.id).value for other in content.techniques if other is not technique
    )


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
