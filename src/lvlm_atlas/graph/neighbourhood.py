"""What surrounds a technique: every interaction on the way outwards, as rows to read."""

from __future__ import annotations

from dataclasses import dataclass

from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.relations import reading


@dataclass(frozen=True)
class Neighbour:
    """One interaction, read outwards from the technique that is nearer to the middle."""

    step: int
    """How many interactions away from the middle the far end is, along this one; 1 touches the middle."""
    id: str
    """The near end."""
    reads: str
    """How the interaction reads from the near end: `is fed by`."""
    other: str
    """The far end."""
    edge: Edge
    """The interaction, with reason, evidence and source."""


def neighbourhood(kb: KnowledgeBase, id_: str, depth: int = 1) -> tuple[Neighbour, ...]:
    """The interactions at most `depth` steps out from a technique, nearest first.

    Raises:
        AtlasError: there is no such technique, or `depth` is below 1.
    """
    middle = kb.technique(id_).id
    distance = {middle: 0} | {end: len(path) - 1 for end, path in kb.paths(middle, depth).items()}
    rows = []
    for edge in kb.edges:
        near, far = sorted((edge.start, edge.end), key=lambda end: (distance.get(end, depth + 1), end != edge.start))
        step = distance.get(near, depth + 1) + 1
        if step <= depth:
            rows.append(Neighbour(step, near, reading(kb.atlas, edge, near), far, edge))
    return tuple(sorted(rows, key=lambda row: (row.step, row.id, row.edge.kind, row.other)))
