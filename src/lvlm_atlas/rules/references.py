"""Every id that a record names exists, and is the present one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from lvlm_atlas.atlas.bibliography import BIB
from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.records import SYSTEMS, TECHNIQUES
from lvlm_atlas.atlas.yaml_subset import Loc
from lvlm_atlas.fault import suggestion
from lvlm_atlas.rules.edit import present_id
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.rules.sample import ALPHA, SYSTEM, unused_work
from lvlm_atlas.rules.sample import BIB as SAMPLE_BIB


def _defined(inspection: Inspection, folder: Path) -> bool:
    """Whether all files under `folder` were read; if not, what looks unknown may stand in one of them."""
    return not any(path.is_relative_to(folder) for path in inspection.unread)


def _unknown(inspection: Inspection, to: str, folder: Path, known: Collection[str]) -> Iterator[Finding]:
    if not _defined(inspection, folder):
        return
    for path, loc, kind, id_ in inspection.references:
        if kind == to and id_ not in known:
            yield Finding(path=path, loc=loc, words={"id": id_, "hint": suggestion(id_, known)})


@rule(
    id="unknown-term",
    message="{vocabulary} {id!r} is not in the taxonomy",
    repair="{hint}",
    why="A misspelt term would make the entry invisible to every query and filter on it.",
    example=lambda files: files[ALPHA].update(training="nonne"),
)
def unknown_term(inspection: Inspection) -> Iterator[Finding]:
    """Terms of entries, measurements and of the taxonomy itself."""
    ids = _term_ids(inspection)
    for path, loc, to, id_ in inspection.references:
        if to in ids and id_ not in ids[to]:
            hint = suggestion(id_, (term for term, forward in ids[to].items() if not forward))
            yield Finding(path=path, loc=loc, words={"vocabulary": to, "id": id_, "hint": hint})


@rule(
    id="unknown-technique",
    message="there is no technique {id!r}",
    repair="{hint}",
    why="An edge to nowhere cannot be drawn, followed or planned with.",
    example=lambda files: files[ALPHA]["interactions"][0].update({"with": "betta"}),
)
def unknown_technique(inspection: Inspection) -> Iterator[Finding]:
    """Targets of interactions, redirects and measurements."""
    atlas = inspection.atlas
    return _unknown(inspection, "technique", TECHNIQUES, [*atlas.techniques, *atlas.redirects])


@rule(
    id="unknown-system",
    message="there is no system {id!r}",
    repair="{hint}",
    why="A form that is not there cannot be looked at.",
    example=lambda files: files[SYSTEM].update(forms=["epsilom"]),
)
def unknown_system(inspection: Inspection) -> Iterator[Finding]:
    """Forms of serving systems."""
    return _unknown(inspection, "system", SYSTEMS, inspection.atlas.systems)


@rule(
    id="unknown-paper",
    message="papers.bib has no {id!r}",
    repair="{hint}",
    why="A source that cannot be looked up is none.",
    example=lambda files: files[ALPHA].update(paper="doe2025alfa"),
)
def unknown_paper(inspection: Inspection) -> Iterator[Finding]:
    """Papers of entries and sources of statements."""
    return _unknown(inspection, "paper", BIB, inspection.atlas.papers.keys())


def _moved_term(files: Files) -> None:
    files["taxonomy/modality.yaml"]["terms"].append({"id": "clip", "moved": "video"})
    files[ALPHA]["modality"][1] = "clip"


@rule(
    id="moved-id",
    level="warning",
    message="{id!r} was renamed",
    repair="write {new!r}",
    why="Old ids work for ever, but a reader should meet one name only.",
    example=_moved_term,
    fix=present_id,
)
def moved_id(inspection: Inspection) -> Iterator[Finding]:
    """References to terms and techniques that have a new id."""
    for path, loc, id_, forward in _forwarded(inspection):
        if len(forward) == 1:
            yield Finding(path=path, loc=loc, words={"id": id_, "new": forward[0]})


def _split_term(files: Files) -> None:
    files["taxonomy/modality.yaml"]["terms"].append({"id": "visual", "split": ["image", "video"]})
    files[ALPHA]["modality"] = ["visual"]


@rule(
    id="split-id",
    message="{id!r} was split into {new}",
    repair="name the one that is meant",
    why="Which of the parts is meant cannot be guessed.",
    example=_split_term,
)
def split_id(inspection: Inspection) -> Iterator[Finding]:
    """References to terms and techniques that became several."""
    for path, loc, id_, forward in _forwarded(inspection):
        if len(forward) > 1:
            yield Finding(path=path, loc=loc, words={"id": id_, "new": ", ".join(forward)})


@rule(
    id="unused-paper",
    message="no record cites {key!r}",
    repair="cite it, or remove it from papers.bib",
    why="The bibliography would grow works that support nothing.",
    example=lambda files: files.update({SAMPLE_BIB: files[SAMPLE_BIB] + unused_work()}),
)
def unused_paper(inspection: Inspection) -> Iterator[Finding]:
    """Works of papers.bib that nothing refers to. Silent while a record cannot be read: it may be the one."""
    if inspection.unread:
        return
    cited = {id_ for _, _, to, id_ in inspection.references if to == "paper"}
    for paper in inspection.atlas.papers.values():
        if paper.key not in cited:
            yield Finding(path=BIB, line=paper.line, words={"key": paper.key})


def _term_ids(inspection: Inspection) -> dict[str, dict[str, tuple[str, ...]]]:
    """Per vocabulary each id, with the ids it forwards to. A vocabulary that could not be read is left out."""
    return {
        name: {term.id: (term.moved,) if term.moved else term.split for term in vocabulary.terms}
        for name, vocabulary in inspection.atlas.vocabularies.items()
    }


def _forwarded(inspection: Inspection) -> Iterator[tuple[Path, Loc, str, tuple[str, ...]]]:
    forwards: Mapping[str, Mapping[str, tuple[str, ...]]] = {
        **_term_ids(inspection),
        "technique": inspection.atlas.redirects,
    }
    for path, loc, to, id_ in inspection.references:
        forward = forwards.get(to, {}).get(id_)
        if forward:
            yield path, loc, id_, forward
