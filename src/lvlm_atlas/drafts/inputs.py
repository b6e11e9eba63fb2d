"""What the drafts of techniques and systems ask of their input, and say in the same words."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import TypeVar

import yaml

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.drafts.papers import nearest
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.schema.record import ID_PATTERN

T = TypeVar("T")


class Problems:
    """What is wrong with the input, to be told at once."""

    def __init__(self) -> None:
        self._told: list[str] = []

    def add(self, problem: str) -> None:
        """Note one more."""
        self._told.append(problem)

    def attempt(self, step: Callable[[], T]) -> T | None:
        """What a step gives, or None if it refuses its input, which is noted."""
        try:
            return step()
        except AtlasError as error:
            self.add(str(error))
            return None

    def refuse(self) -> None:
        """Raise one error for all problems, if there are any."""
        if self._told:
            raise AtlasError("\n".join(self._told))


def require_free(inspection: Inspection, id_: str) -> None:
    """Refuse an id that is malformed, or that means something already."""
    if not re.fullmatch(ID_PATTERN, id_) or "." in id_:
        raise AtlasError(f"{id_!r} is no id; use lower-case words joined by '-', such as my-method")
    drafts = (path.stem for path in inspection.unread if path.is_relative_to("catalog"))
    atlas = inspection.atlas
    if id_ in {*atlas.techniques, *atlas.redirects, *atlas.systems, *drafts}:
        raise AtlasError(f"the id {id_!r} is taken and means one thing for ever; choose another")


def require_printable(name: str | None) -> None:
    """Refuse a name that would not stand in an entry or a docstring as it is."""
    if name is not None and (not name.strip() or not name.isprintable() or re.search(r"[\"\\<>]", name)):
        raise AtlasError(f"--name: {name!r} is no name; use letters, digits and plain punctuation, such as VL-Cache")


def require_paper(records: Atlas, key: str | None) -> None:
    """Refuse a paper that papers.bib does not hold."""
    if key is None:
        raise AtlasError("give --paper, the key of its work in papers.bib, or --from-bib with a file that holds it")
    if key not in records.papers:
        near = nearest(key, records.papers)
        meant = f"{near} If not, " if near else "; "
        raise AtlasError(f"no paper {key!r} in papers.bib{meant}add it there first or give --from-bib FILE")


def name_line(name: str) -> str:
    """The line of a record that says the name, quoted where YAML asks for it."""
    return str(yaml.safe_dump({"name": name}, allow_unicode=True, width=1000)).strip()


def words_of(records: Atlas) -> dict[str, str]:
    """The short vocabularies, as a draft names them, and the day."""
    plurals = {
        "trainings": "training", "bounds": "bound", "verifications": "verification", "modalities": "modality",
        "stages": "stage",
    }  # fmt: skip
    words = {plural: ", ".join(term.id for term in records.terms(name)) for plural, name in plurals.items()}
    return {**words, "today": date.today().isoformat()}
