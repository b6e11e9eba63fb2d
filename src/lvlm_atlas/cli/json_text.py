"""JSON as every reader takes it."""

from __future__ import annotations


def as_json(value: object, indent: int | None = 2) -> str:
    """A value as JSON: text as it is, and no number that is none.

    Raises:
        ValueError: it holds an infinity or NaN.
    """
    import json

    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
