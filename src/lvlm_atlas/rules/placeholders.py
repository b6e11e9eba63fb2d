"""What `new` and `model add` leave for the contributor to write must have been written."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.yaml_subset import Loc
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.rules.sample import ALPHA
from lvlm_atlas.schema.model import Model
from lvlm_atlas.schema.technique import Technique

PLACEHOLDER = "FILL IN"


def _left_open(files: Files) -> None:
    files[ALPHA]["explanation"] = f"{PLACEHOLDER} how it works and why."


@rule(
    id="placeholder",
    message="this still says {text!r}",
    repair="write what is asked for",
    why="An entry that says nothing yet must not look as if it did.",
    example=_left_open,
)
def placeholder(inspection: Inspection) -> Iterator[Finding]:
    """Techniques and models, which are drafted."""
    for path, record in (*inspection.of(Technique), *inspection.of(Model)):
        for loc, text in _texts(record.model_dump(mode="json", by_alias=True), ()):
            if PLACEHOLDER in text:
                yield Finding(path=path, loc=loc, words={"text": text})


def _texts(value: object, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """Every text in a record, with its location."""
    if isinstance(value, str):
        yield loc, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*loc, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*loc, index))
