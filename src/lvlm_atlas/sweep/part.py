"""A part of a table, as the process computes it that is sent a job."""

from __future__ import annotations

import pickle
from functools import lru_cache
from typing import Protocol


class Parts(Protocol):
    """What computes parts, and keeps what they share."""

    def part(self, index: int) -> bytes:
        """One part of the table as a Parquet file; its number is from 0."""


class Task(Protocol):
    """A job of any kind, which is pickled to where it runs."""

    def opened(self) -> Parts:
        """Make ready in this process.

        Raises:
            AtlasError: this process has another catalog or engine than the one that the job is for.
        """


OTHER = (
    "a worker has another version of the catalog or of the engine than this sweep began with; install the same "
    "everywhere, and change nothing meanwhile"
)
"""What to say then."""


def part(pickled: bytes, index: int) -> bytes:
    """One part of a job's table.

    Raises:
        AtlasError: as of `Task.opened`.
    """
    return _opened(pickled).part(index)


@lru_cache(maxsize=2)
def _opened(pickled: bytes) -> Parts:
    task: Task = pickle.loads(pickled)  # noqa: S301  the parent of this process wrote it
    return task.opened()
