"""Whether two techniques get along: works, breaks, or nobody has said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lvlm_atlas.graph.edges import Edge

BREAKS = frozenset({"conflicts-with"})
"""Kinds that settle that two techniques cannot share a stack."""
WORKS = frozenset({"composes-with", "cascades-to", "diminishes", "requires"})
"""Kinds that settle that they can, where somebody stated them. A rule's edge never does: it follows from the
declared fields of two entries, and those cannot show that the code of both runs together. Nor does a predicted one."""


@dataclass(frozen=True)
class Verdict:
    """One of three values, with the edges that decide it."""

    value: Literal["works", "breaks", "unknown"]
    """`unknown` means that no edge settles it; it does not mean compatible."""
    edges: tuple[Edge, ...]
    """The edges that decide it; none if unknown."""


def verdict(edges: Iterable[Edge]) -> Verdict:
    """The verdict over all edges between two techniques; a conflict outweighs what speaks for them."""
    edges = tuple(edges)
    if breaking := tuple(edge for edge in edges if edge.kind in BREAKS and edge.evidence != "predicted"):
        return Verdict("breaks", breaking)
    if working := tuple(edge for edge in edges if edge.kind in WORKS and edge.evidence not in ("derived", "predicted")):
        return Verdict("works", working)
    return Verdict("unknown", ())
