"""Data as a script: a page can load it from a folder, where nothing may be fetched."""

from __future__ import annotations

import json
from typing import Any


def script(name: str, value: Any) -> str:
    """A script that hands a value over under a name.

    JSON is JavaScript; `<` is escaped all the same, so that no text can end a script that somebody puts into a page.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"((window.lvlmAtlas ??= {{}}).data ??= {{}})[{json.dumps(name)}] = {text};\n"
