"""Facets of the list of techniques: the fields of the query language, with the techniques that each value finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lvlm_atlas.graph.field_table import field_named
from lvlm_atlas.graph.fields import Field, TermField
from lvlm_atlas.site.content import Content

FACETS = ("stage", "family", "bound", "mechanism", "training", "query_aware", "modality", "shipped_in", "has", "status",
          "verified", "year")  # fmt: skip
"""Fields by which readers narrow the list, in the order in which the page has them."""


def facets(content: Content, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each field with its values: the value as a query writes it, its name, and the techniques that have it."""
    fields = [field_named(name) for name in FACETS]
    return [{"field": field.name, "doc": field.doc, "values": [*_values(content, field, numbers)]} for field in fields]


def _values(content: Content, field: Field, numbers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    atlas = content.atlas
    for value in field.known(atlas):
        test = field.test(atlas, value)
        if which := [numbers[technique.id] for technique in content.techniques if test(technique)]:
            name = atlas.term(field.vocabulary, value).name if isinstance(field, TermField) else None
            yield {"value": value, "name": name or value, "which": which}
