"""Works as other tools cite them: items of CSL JSON for Zotero and Pandoc, records of RIS for EndNote and others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvlm_atlas.atlas.bibliography import Paper


def csl(paper: Paper) -> Mapping[str, Any]:
    """A work as an item of CSL JSON."""
    names = [author.partition(", ") for author in paper.authors]
    item = {
        "id": paper.key,
        "type": "article" if paper.venue == "arXiv" else "paper-conference",
        "title": paper.title,
        "author": [{"family": last, "given": first} if first else {"literal": last} for last, _, first in names],
        "issued": {"date-parts": [[paper.year]]},
        "container-title": paper.venue,
        "URL": paper.url,
        "DOI": paper.doi,
    }
    return {name: value for name, value in item.items() if value}


def ris(paper: Paper) -> str:
    """A work as a record of RIS, a line a field."""
    fields = [
        ("TY", "UNPB" if paper.venue == "arXiv" else "CPAPER"),
        ("ID", paper.key),
        *(("AU", author) for author in paper.authors),
        ("PY", str(paper.year)),
        ("TI", paper.title),
        ("T2", paper.venue),
        ("UR", paper.url),
        ("DO", paper.doi),
    ]
    lines = [f"{tag}  - {' '.join(value.split())}" for tag, value in fields if value]
    return "\n".join([*lines, "ER  - "])
