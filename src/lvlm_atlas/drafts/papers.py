"""Takes a work from a BibTeX file along into papers.bib."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from lvlm_atlas.atlas.bibliography import BIB, Paper
from lvlm_atlas.atlas.bibtex import MAX_BYTE, parse_papers
from lvlm_atlas.atlas.document import DocumentError, read_text
from lvlm_atlas.atlas.shelves import folded
from lvlm_atlas.fault import AtlasError, FaultsError


def work_from(file: Path, key: str | None, known: Mapping[str, Paper]) -> Paper:
    """The work of that key in a BibTeX file, or its only one, if papers.bib does not hold it yet.

    Raises:
        AtlasError: the file cannot be read, or holds no such work, or several and no key tells which; or papers.bib
            has the key, or the work under another key.
        FaultsError: the file has faults, all of which it names.
    """
    try:
        text = read_text(file.parent, Path(file.name), MAX_BYTE)
    except DocumentError as error:
        raise FaultsError([replace(error.fault, path=file)]) from None
    works, faults = parse_papers(text)
    if faults:
        raise FaultsError(replace(fault, path=file) for fault in faults)
    if not works:
        raise AtlasError(f"{file} holds no work; give a file with a BibTeX entry")
    if key is None and len(works) > 1:
        raise AtlasError(f"{file} holds {len(works)} works; choose one with --paper: {_list(works)}")
    work = works.get(next(iter(works)) if key is None else key)
    if work is None:
        raise AtlasError(f"no work {key!r} in {file}; it holds {_list(works)}")
    if work.key in known:
        raise AtlasError(f"papers.bib has {work.key!r} already; leave --from-bib out, or give the work another key")
    twin = next((paper for paper in known.values() if _same(paper, work)), None)
    if twin:
        raise AtlasError(f"papers.bib has this work already; leave --from-bib out and give --paper {twin.key}")
    return work


def with_work(root: Path, work: Paper) -> str:
    """The text of papers.bib with one more work at its end."""
    file = root / BIB
    text = file.read_text(encoding="utf-8").rstrip("\n") if file.is_file() else ""
    return f"{text}\n\n{work.bibtex.strip()}\n".lstrip("\n")


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x' or 'y'?` for the nearest of the known words, at most three; else nothing."""
    near = [repr(other) for other in get_close_matches(word, list(known), n=3, cutoff=0.6)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _list(works: Iterable[str]) -> str:
    names = list(works)
    return ", ".join(names[:6]) + (f", … ({len(names)} in all)" if len(names) > 6 else "")


def _same(one: Paper, other: Paper) -> bool:
    """Whether two entries are the same work: one number of arXiv, one DOI, or one title of the same year."""
    if one.arxiv and other.arxiv:
        return one.arxiv.partition("v")[0] == other.arxiv.partition("v")[0]
    if one.doi and other.doi and one.doi.casefold() == other.doi.casefold():
        return True
    return folded(one.title) == folded(other.title)
