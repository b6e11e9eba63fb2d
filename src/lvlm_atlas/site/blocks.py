"""Drawings and listings: put aside from the Markdown, which engines take long to read, and back into the built HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256

_BLOCK = re.compile(r"<svg xmlns=.*?</svg>|<pre><code>.*?</code></pre>", re.DOTALL)
_MARK = re.compile(r'<i data-la="(\w+)">(?:<a id="[^"]*"></a>)*</i>')
_ID = re.compile(r'\bid="([^"]*)"')
Blocks = dict[str, str]
"""HTML by the name in its mark."""


def marked(what: str) -> str:
    """The name of a block, or of what makes one."""
    return sha256(what.encode()).hexdigest()[:16]


def mark(what: str, ids: Iterable[str] = ()) -> str:
    """An element that stands for a block, with those of its ids that links lead to, so that engines find them."""
    anchors = "".join(f'<a id="{id_}"></a>' for id_ in ids)
    return f'<i data-la="{marked(what)}">{anchors}</i>'


def put_aside(text: str, blocks: Blocks) -> str:
    """The text with a mark for each block, which is kept in `blocks`."""

    def aside(found: re.Match[str]) -> str:
        blocks[marked(found[0])] = found[0]
        return mark(found[0], (id_ for id_ in _ID.findall(found[0]) if f'href="#{id_}"' in text))

    return _BLOCK.sub(aside, text)


def put_back(html: str, blocks: Blocks) -> str:
    """The page with the blocks in place of their marks."""
    return _MARK.sub(lambda found: blocks[found[1]], html)
