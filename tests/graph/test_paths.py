"""Shortest paths, held against those of networkx."""

from __future__ import annotations

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.paths import adjacency, shortest_paths

NODES = st.sampled_from("abcdefgh")
EDGES = st.lists(
    st.builds(
        Edge, start=NODES, kind=st.sampled_from(["requires", "diminishes"]), end=NODES, reason=st.just(""),
        evidence=st.just("reported"),
    ),
    max_size=20,
)  # fmt: skip


@given(EDGES, NODES, st.integers(1, 5), st.sampled_from([None, "requires"]))
def test_paths_are_those_of_networkx_in_the_same_order(
    edges: list[Edge], start: str, hops: int, kind: str | None
) -> None:
    graph: nx.Graph[str] = nx.Graph()
    graph.add_node(start)
    graph.add_edges_from((edge.start, edge.end) for edge in edges if kind in (None, edge.kind))
    expected = nx.single_source_shortest_path(graph, start, cutoff=hops)
    assert [[start], *shortest_paths(adjacency(edges, kind), start, hops).values()] == list(expected.values())
