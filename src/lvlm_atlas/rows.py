"""Rows as notebooks show them: a Markdown table, a pandas frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lvlm_atlas.fault import AtlasError


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *([cell.strip().replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def frame(records: Iterable[Mapping[str, Any]]) -> Any:
    """A pandas frame with a row for each record.

    Raises:
        AtlasError: pandas is not installed.
    """
    try:
        import pandas  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra, and slow to import
    except ModuleNotFoundError:
        raise AtlasError(
            "a frame needs pandas; install it with: pip install 'lvlm-atlas[pandas]', in a checkout '.[pandas]'"
        ) from None
    return pandas.DataFrame.from_records([dict(record) for record in records])
