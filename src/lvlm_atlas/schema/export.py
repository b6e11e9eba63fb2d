"""JSON Schema of the records, for editors: descriptions from the fields' docstrings, terms as choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import ModelSchema

from lvlm_atlas.schema.field_docs import field_docs
from lvlm_atlas.schema.vocabulary import Vocabulary


class _WithDescriptions(GenerateJsonSchema):
    """Describes each property by its field's docstring."""

    def model_schema(self, schema: ModelSchema) -> dict[str, Any]:
        """The schema of one model."""
        made = super().model_schema(schema)
        model = schema["cls"]
        if issubclass(model, BaseModel):
            names = {field.alias or name: name for name, field in model.model_fields.items()}
            docs = field_docs(model)
            for key, node in made.get("properties", {}).items():
                if key in names and names[key] in docs:
                    node["description"] = docs[names[key]]
        return made


def json_schema(model: Any, vocabularies: Mapping[str, Vocabulary]) -> dict[str, Any]:
    """JSON Schema of a type of record. Fields that name a term list the live terms of its vocabulary.

    Techniques and papers are not listed: the schema would change with every entry.
    """
    schema = TypeAdapter(model).json_schema(by_alias=True, schema_generator=_WithDescriptions)
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
