"""What `new` and `model add` leave for the contributor to write must have been written.

A placeholder in a field that takes no free text keeps its record from being read; `atlas.validation` then tells all
the placeholders of that file under the same name.
"""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.placeholders import MESSAGE, PLACEHOLDER, REPAIR, RULE, placeholders
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.rules.sample import ALPHA


def _left_open(files: Files) -> None:
    files[ALPHA]["explanation"] = f"{PLACEHOLDER} how it works and why."


@rule(
    id=RULE,
    message=MESSAGE,
    repair=REPAIR,
    why="An entry that says nothing yet must not look as if it did.",
    example=_left_open,
)
def placeholder(inspection: Inspection) -> Iterator[Finding]:
    """Records of every kind: whatever a person or a tool has drafted."""
    for path, record in inspection.records.items():
        for loc, text in placeholders(record.model_dump(mode="json", by_alias=True)):
            yield Finding(path=path, loc=loc, words={"text": text})
