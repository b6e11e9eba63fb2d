"""The graph for the scripts: where each technique first acts, and every edge that is stated or derived."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvlm_atlas.site.content import Content


def edges(content: Content, numbers: Mapping[str, int]) -> dict[str, Any]:
    """Places in pipeline order with the techniques there, and edges as start, end, kind and evidence by number."""
    atlas, stored = content.atlas, [edge for edge in content.kb.edges if edge.evidence != "predicted"]
    kinds = [term.id for term in atlas.terms("interaction") if any(edge.kind == term.id for edge in stored)]
    evidence = [term.id for term in atlas.terms("evidence") if any(edge.evidence == term.id for edge in stored)]
    columns: dict[int, list[int]] = {}
    for technique in content.techniques:
        columns.setdefault(atlas.place(technique), []).append(numbers[technique.id])
    names = {getattr(term, "order", None): term.name or term.id for term in atlas.terms("position")}
    return {
        "kinds": [{"id": kind, "name": atlas.term("interaction", kind).name or kind} for kind in kinds],
        "evidence": evidence,
        "places": [{"name": names[place], "techniques": columns[place]} for place in sorted(columns)],
        "edges": [
            [numbers[edge.start], numbers[edge.end], kinds.index(edge.kind), evidence.index(edge.evidence)]
            for edge in stored
        ],
    }
