"""The bibliography: every work cited, once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BIB = Path("papers.bib")


@dataclass(frozen=True)
class Paper:
    """One work of the bibliography."""

    key: str
    title: str
    authors: tuple[str, ...]
    """As `Last, First`, in the paper's order."""
    year: int
    venue: str
    """Where it appeared; `arXiv` if nowhere else."""
    url: str
    arxiv: str | None
    doi: str | None
    bibtex: str
    """The entry as it stands in papers.bib."""
    line: int
    """Line of papers.bib where it begins, from 1."""
