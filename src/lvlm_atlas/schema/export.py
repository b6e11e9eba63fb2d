"""JSON Schema of the records, for editors: descriptions from the fields' docstrings, terms as choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from lvlm_atlas.schema.vocabulary import Vocabulary


def json_schema(model: Any, vocabularies: Mapping[str, Vocabulary]) -> dict[str, Any]:
    """JSON Schema of a type of record. Fields that name a term list the live terms of its vocabulary.

    Techniques and papers are not listed: the schema would change with every entry.
    """
    schema = TypeAdapter(model).json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_with_terms(schema, vocabularies)}


def _with_terms(node: Any, vocabularies: Mapping[str, Vocabulary]) -> Any:
    """The schema with each `x-ref` mark replaced by the ids it allows."""
    if isinstance(node, list):
        return [_with_terms(item, vocabularies) for item in node]
    if not isinstance(node, dict):
        return node
    rest = {key: _with_terms(value, vocabularies) for key, value in node.items() if key != "x-ref"}
    vocabulary = vocabularies.get(node.get("x-ref", ""))
    if vocabulary is None:
        return rest
    for key in ("pattern", "maxLength"):
        rest.pop(key, None)
    return {**rest, "enum": [term.id for term in vocabulary.terms if not term.gone]}
