"""Shortest paths over interactions. networkx has them too, but takes longer to import than a whole query does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lvlm_atlas.graph.edges import Edge


Adjacency = Mapping[str, Collection[str]]
"""The neighbours of each technique that has any, in the order of the edges."""


def adjacency(edges: Iterable[Edge], kind: str | None = None) -> Adjacency:
    """Which techniques any edge joins, or any of one kind, whichever way it points."""
    neighbours: dict[str, dict[str, None]] = defaultdict(dict)  # dicts as sets that keep their order
    for edge in edges:
        if kind in (None, edge.kind):
            neighbours[edge.start][edge.end] = neighbours[edge.end][edge.start] = None
    return dict(neighbours)


def shortest_paths(neighbours: Adjacency, start: str, hops: int) -> dict[str, list[str]]:
    """A shortest path to each node at most `hops` steps away, `start` itself left out; breadth first."""
    paths = {start: [start]}
    frontier = [start]
    for _ in range(hops):
        reached = {}
        for node in frontier:
            for neighbour in neighbours.get(node, ()):
                if neighbour not in paths and neighbour not in reached:
                    reached[neighbour] = [*paths[node], neighbour]
        paths |= reached
        frontier = list(reached)
    del paths[start]
    return paths
