"""The record of a new serving system or feature of engines, which no reference runs."""

from __future__ import annotations

from pathlib import Path

from lvlm_atlas.atlas.bibliography import BIB
from lvlm_atlas.atlas.loader import inspect
from lvlm_atlas.atlas.records import SYSTEMS
from lvlm_atlas.atlas.root import authored_root
from lvlm_atlas.drafts.inputs import Problems, name_line, require_free, require_paper, require_printable, words_of
from lvlm_atlas.drafts.papers import with_work, work_from
from lvlm_atlas.drafts.templates import SYSTEM
from lvlm_atlas.files import write_all


def scaffold_system(
    root: Path, id_: str, *, family: str | None, paper: str | None, name: str | None = None, bib: Path | None = None
) -> list[Path]:
    """Write the record of a serving system, or without a family that of a feature of engines, and return its path.

    Raises:
        AtlasError: as of `scaffold`.
    """
    inspection = inspect(root)
    records = inspection.atlas
    problems = Problems()
    attempt = problems.attempt
    own = attempt(lambda: authored_root(root))
    attempt(lambda: require_free(inspection, id_))
    attempt(lambda: require_printable(name))
    term = attempt(lambda: records.term("family", family)) if family else None
    work = attempt(lambda: work_from(bib, paper, records.papers)) if bib else None
    if not bib:
        attempt(lambda: require_paper(records, paper))
    problems.refuse()
    if own is None:
        raise AssertionError("refused above")
    text = SYSTEM.substitute(
        words_of(records), id=id_, name_line=name_line(name or id_), paper=work.key if work else paper,
        kind="serving-system" if term else "engine-feature", family_line=f"family: {term.id}\n" if term else "",
    )  # fmt: skip
    path = SYSTEMS / f"{id_}.yaml"
    write_all(own, {path: text}, {BIB: with_work(own, work)} if work else None)
    return [path, *([BIB] if work else [])]
