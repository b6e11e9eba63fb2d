"""Published lists of techniques as rows: how much of each the catalog holds, and every work with its state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.graph.coverage import STATES, counts, coverage

LIST_COLUMNS = ("id", "name", "works", *STATES)
"""What a table shows of a list."""
WORK_COLUMNS = ("id", "name", "stage", "state", "differs")
"""What a table shows of a work."""


def list_rows(atlas: Atlas) -> Iterator[dict[str, Any]]:
    """The lists, each with how many of its works are in each state."""
    for list_ in atlas.lists.values():
        counted = counts(coverage(atlas, list_))
        yield {
            "id": list_.id, "name": list_.name, "summary": list_.summary, "source": list_.source.model_dump(),
            "works": sum(counted.values()), **{state: counted.get(state, 0) for state in STATES},
        }  # fmt: skip


def work_rows(atlas: Atlas, list_id: str, state: str | None) -> Iterator[dict[str, Any]]:
    """The works of a list, all or those in one state.

    Raises:
        AtlasError: there is no such list or state; the message suggests the nearest.
    """
    if state is not None and state not in STATES:
        raise AtlasError(f"--state: no state {state!r}; {suggestion(state, STATES)}")
    for row in coverage(atlas, atlas.list_(list_id)):
        if state in (None, row.state):
            yield {
                "id": row.work.technique, "name": row.work.name, "under": " › ".join(row.section.heading),
                "state": row.state, "differs": "; ".join(row.differences), "stage": row.section.stage,
                "training_free": row.work.training_free, "url": row.work.url,
            }  # fmt: skip
