"""The search index of the built site, without bare numbers.

Nobody searches for `60.4`, and the theme's search engine cannot bear many of them: lunr tells the states of its word
graph apart by a text in which the digits of words and those of state numbers run together, so that two different states
may count as one. A query with a digit then finds words that are in no page, and fails.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"(?<!\S)[^\sA-Za-z<>&]*\d[^\sA-Za-z<>&]*(?!\S)")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")


def without_numbers(text: str) -> str:
    """A page's text without words that are numbers alone; numbers of arXiv stay."""
    kept = _NUMBER.sub(lambda match: match[0] if _ARXIV.fullmatch(match[0]) else "", text)
    return re.sub(r" {2,}", " ", kept)


def slim(site: Path) -> None:
    """Take bare numbers out of the search index of a built site; titles keep theirs."""
    file = site / "search" / "search_index.json"
    index: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    pages = [{**page, "text": without_numbers(page["text"])} for page in index["docs"]]
    file.write_text(json.dumps({**index, "docs": pages}, separators=(",", ":")), encoding="utf-8")
