"""The vocabularies are whole: ids once, parents and forwards that lead somewhere, no circles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.yaml_subset import Loc
from lvlm_atlas.fault import suggestion
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.schema.technique import Moved, Split
from lvlm_atlas.schema.vocabulary import (
    BenchmarkTerm,
    FamilyTerm,
    MetricTerm,
    PositionTerm,
    StageTerm,
    Term,
    Vocabulary,
)


@rule(
    id="duplicate-vocabulary",
    message="the vocabulary {name!r} is already held by {other}",
    repair="keep the terms of a vocabulary in one file",
    why="One of the two files would be ignored.",
    example=lambda files: files.update({"taxonomy/twin.yaml": files["taxonomy/training.yaml"]}),
)
def duplicate_vocabulary(inspection: Inspection) -> Iterator[Finding]:
    """Files of the taxonomy."""
    first: dict[str, Path] = {}
    for path, vocabulary in inspection.of(Vocabulary):
        other = first.setdefault(vocabulary.vocabulary, path)
        if other != path:
            words = {"name": vocabulary.vocabulary, "other": other}
            yield Finding(path=path, loc=("vocabulary",), words=words)


@rule(
    id="duplicate-term",
    message="the term {id!r} stands twice",
    repair="merge the two, or rename one",
    why="An id means one thing for ever.",
    example=lambda files: files["taxonomy/signal.yaml"]["terms"].append(files["taxonomy/signal.yaml"]["terms"][0]),
)
def duplicate_term(inspection: Inspection) -> Iterator[Finding]:
    """Ids within each vocabulary."""
    for path, vocabulary in inspection.of(Vocabulary):
        seen: set[str] = set()
        for index, term in enumerate(vocabulary.terms):
            if term.id in seen:
                yield Finding(path=path, loc=("terms", index, "id"), words={"id": term.id})
            seen.add(term.id)


def _bad_parent(files: Files) -> None:
    files["taxonomy/bound.yaml"]["terms"][2]["parent"] = "memmory"


@rule(
    id="unknown-parent",
    message="{id!r} has the parent {parent!r}, which is no live term of this vocabulary",
    repair="{hint}",
    why="A query for the broader term would miss this one.",
    example=_bad_parent,
)
def unknown_parent(inspection: Inspection) -> Iterator[Finding]:
    """Parents of terms."""
    for path, vocabulary in inspection.of(Vocabulary):
        live = [term.id for term in vocabulary.terms if not term.gone]
        for index, term in enumerate(vocabulary.terms):
            if term.parent is not None and term.parent not in live:
                words = {"id": term.id, "parent": term.parent, "hint": suggestion(term.parent, live)}
                yield Finding(path=path, loc=("terms", index, "parent"), words=words)


def _parent_circle(files: Files) -> None:
    files["taxonomy/bound.yaml"]["terms"][1]["parent"] = "memory-capacity"


@rule(
    id="parent-circle",
    message="{id!r} is below itself: {circle}",
    repair="remove one of these parents",
    why="Broader and narrower would mean nothing.",
    example=_parent_circle,
)
def parent_circle(inspection: Inspection) -> Iterator[Finding]:
    """Parents that lead back; each circle once, at its first term."""
    for path, vocabulary in inspection.of(Vocabulary):
        parents = {term.id: (term.parent,) for term in vocabulary.terms if term.parent is not None}
        for index, term in enumerate(vocabulary.terms):
            circle = _circle(term.id, parents)
            if circle and term.id == next(t.id for t in vocabulary.terms if t.id in circle):
                words = {"id": term.id, "circle": " → ".join(circle)}
                yield Finding(path=path, loc=("terms", index, "parent"), words=words)


@rule(
    id="unknown-forward",
    message="{id!r} forwards to {target!r}, which this vocabulary does not hold",
    repair="{hint}",
    why="An old id that leads nowhere breaks every page that still uses it.",
    example=lambda files: files["taxonomy/signal.yaml"]["terms"].append({"id": "old", "moved": "atention"}),
)
def unknown_forward(inspection: Inspection) -> Iterator[Finding]:
    """Targets of `moved` and `split` in the taxonomy."""
    for path, vocabulary in inspection.of(Vocabulary):
        ids = [term.id for term in vocabulary.terms]
        for index, term in enumerate(vocabulary.terms):
            for loc, target in _forwards(term):
                if target not in ids:
                    words = {"id": term.id, "target": target, "hint": suggestion(target, ids)}
                    yield Finding(path=path, loc=("terms", index, *loc), words=words)


@rule(
    id="forward-circle",
    message="{id!r} forwards to itself: {circle}",
    repair="let it end at a live id",
    why="Who follows it would never arrive.",
    example=lambda files: files["taxonomy/signal.yaml"]["terms"].append({"id": "old", "moved": "old"}),
)
def forward_circle(inspection: Inspection) -> Iterator[Finding]:
    """`moved` and `split` of terms and of techniques that lead back."""
    for path, vocabulary in inspection.of(Vocabulary):
        forwards = {term.id: tuple(target for _, target in _forwards(term)) for term in vocabulary.terms}
        for index, term in enumerate(vocabulary.terms):
            circle = _circle(term.id, forwards)
            if circle:
                words = {"id": term.id, "circle": " → ".join(circle)}
                yield Finding(path=path, loc=("terms", index, "id"), words=words)
    for path, record in inspection.records.items():
        if isinstance(record, Moved | Split):
            circle = _circle(record.id, inspection.atlas.redirects)
            if circle:
                yield Finding(path=path, loc=("id",), words={"id": record.id, "circle": " → ".join(circle)})


@rule(
    id="incomplete-term",
    message="{id!r} lacks `{key}`",
    repair="add it",
    why="Without its place a term cannot be ordered or filed, and without a direction two scores cannot be compared.",
    example=lambda files: files["taxonomy/position.yaml"]["terms"][0].pop("order"),
)
def incomplete_term(inspection: Inspection) -> Iterator[Finding]:
    """Stages and positions have an order, positions and root families a stage (or `any_stage`), scores a direction."""
    for path, vocabulary in inspection.of(Vocabulary):
        for index, term in enumerate(vocabulary.terms):
            for key in () if term.gone else _needed(term):
                if getattr(term, key) is None:
                    yield Finding(path=path, loc=("terms", index), words={"id": term.id, "key": key})


def _needed(term: Term) -> tuple[str, ...]:
    if isinstance(term, PositionTerm):
        return ("order", "stage")
    if isinstance(term, StageTerm):
        return ("order",)
    if isinstance(term, BenchmarkTerm):
        return ("tests", "modality", "metric", "unit", "better")
    if isinstance(term, MetricTerm):
        return ("unit", "better")
    return ("stage",) if isinstance(term, FamilyTerm) and term.parent is None and not term.any_stage else ()


def _forwards(term: Term) -> list[tuple[Loc, str]]:
    moved: list[tuple[Loc, str]] = [(("moved",), term.moved)] if term.moved else []
    return moved + [(("split", index), target) for index, target in enumerate(term.split)]


def _circle(start: str, steps: Mapping[str, tuple[str, ...]]) -> list[str]:
    """A way from `start` back to itself, or nothing."""
    ways = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for step in steps.get(way[-1], ()):
            if step == start:
                return [*way, start]
            if step not in seen:
                seen.add(step)
                ways.append([*way, step])
    return []
