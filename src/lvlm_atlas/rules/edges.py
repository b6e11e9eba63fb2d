"""Interactions say each thing once, of two techniques, and do not contradict each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.yaml_subset import Loc
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.rules.sample import ALPHA, BETA
from lvlm_atlas.schema.vocabulary import InteractionTerm

CONFLICT = "conflicts-with"
TOGETHER = frozenset({"composes-with", "requires", "cascades-to"})
"""Kinds that say that two techniques run in one stack, which `conflicts-with` denies."""


@dataclass(frozen=True)
class _Edge:
    kind: str
    source: str
    target: str
    path: Path
    loc: Loc


def _edge(kind: str, target: str) -> dict[str, object]:
    source = {"paper": "doe2025alpha", "place": "sec. 2"}
    return {"kind": kind, "with": target, "reason": "Because.", "evidence": "reasoned", "source": source}


@rule(
    id="self-interaction",
    message="{id!r} has an interaction with itself",
    repair="name another technique, or remove the interaction",
    why="An edge joins two techniques.",
    example=lambda files: files[ALPHA]["interactions"].append(_edge("composes-with", "alpha")),
)
def self_interaction(inspection: Inspection) -> Iterator[Finding]:
    """Interactions whose target is their own entry."""
    for edge in _edges(inspection):
        if edge.source == edge.target:
            yield Finding(path=edge.path, loc=(*edge.loc, "with"), words={"id": edge.source})


@rule(
    id="duplicate-interaction",
    message="{kind!r} with {target!r} is already stated above",
    repair="keep one, with both reasons",
    why="The graph would draw two edges where there is one.",
    example=lambda files: files[ALPHA]["interactions"].append(_edge("cascades-to", "beta")),
)
def duplicate_interaction(inspection: Inspection) -> Iterator[Finding]:
    """The same kind and target twice in one entry."""
    seen: set[tuple[str, str, str]] = set()
    for edge in _edges(inspection):
        key = (edge.source, edge.kind, edge.target)
        if key in seen:
            yield Finding(path=edge.path, loc=edge.loc, words={"kind": edge.kind, "target": edge.target})
        seen.add(key)


def _contradict(files: Files) -> None:
    files[BETA]["interactions"] = [_edge(CONFLICT, "alpha")]


@rule(
    id="contradicting-interactions",
    message="{source!r} {kind} {target!r}, but the two are also said to conflict",
    repair="keep the one that the source supports",
    why="A planner cannot both allow and refuse a stack.",
    example=_contradict,
)
def contradicting_interactions(inspection: Inspection) -> Iterator[Finding]:
    """Edges that put two techniques in one stack, beside one that forbids it, in either entry."""
    edges = list(_edges(inspection))
    apart = {frozenset((edge.source, edge.target)) for edge in edges if edge.kind == CONFLICT}
    for edge in edges:
        if edge.kind in TOGETHER and frozenset((edge.source, edge.target)) in apart:
            words = {"source": edge.source, "kind": edge.kind, "target": edge.target}
            yield Finding(path=edge.path, loc=edge.loc, words=words)


def _both_ways(files: Files) -> None:
    files[ALPHA]["interactions"] = [_edge("composes-with", "beta")]
    files[BETA]["interactions"] = [_edge("composes-with", "alpha")]


@rule(
    id="interaction-stated-twice",
    message="{kind!r} with {target!r} is stated in {other} too, and holds both ways",
    repair="keep it in one of the two entries",
    why="Two statements of one fact drift apart.",
    example=_both_ways,
)
def interaction_stated_twice(inspection: Inspection) -> Iterator[Finding]:
    """Symmetric kinds, stated in both entries; reported in the later file."""
    vocabulary = inspection.atlas.vocabularies.get("interaction")
    terms = vocabulary.terms if vocabulary else ()
    symmetric = {term.id for term in terms if isinstance(term, InteractionTerm) and term.symmetric}
    first: dict[tuple[str, frozenset[str]], Path] = {}
    for edge in _edges(inspection):
        if edge.kind in symmetric and edge.source != edge.target:
            other = first.setdefault((edge.kind, frozenset((edge.source, edge.target))), edge.path)
            if other != edge.path:
                words = {"kind": edge.kind, "target": edge.target, "other": other}
                yield Finding(path=edge.path, loc=edge.loc, words=words)


def _edges(inspection: Inspection) -> Iterator[_Edge]:
    """Interactions of all techniques, targets under their present ids."""
    atlas = inspection.atlas
    for technique in atlas.techniques.values():
        path = atlas.paths[technique.id]
        for index, item in enumerate(technique.interactions):
            forward = atlas.redirects.get(item.with_, (item.with_,))
            target = forward[0] if len(forward) == 1 else item.with_
            yield _Edge(item.kind, technique.id, target, path, ("interactions", index))
