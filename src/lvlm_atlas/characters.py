"""Characters that nobody sees or that turn a line around: refused in files, written out in messages."""

from __future__ import annotations

import re

HIDDEN = (
    "[\x00-\x08\x0b\x0c\r\x0e-\x1f\x7f-\x9f"  # control characters
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"  # no ink
    "\ud800-\udfff\U000e0000-\U000e007f]"  # halves of characters, and invisible tags
)


def one_line(text: str, most: int = 0) -> str:
    """A text as one line of what can be seen: white space folded, hidden characters written as escapes.

    Args:
        text: any text.
        most: longest result in characters; the rest of a longer one is counted instead. 0 sets no limit.
    """
    seen = re.sub(HIDDEN, lambda found: found[0].encode("unicode_escape").decode(), " ".join(text.split()))
    return seen if not most or len(seen) <= most else f"{seen[:most]}… ({len(seen) - most} characters more)"
