"""BibTeX as `papers.bib` holds it: its works, and every fault of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lvlm_atlas.atlas.bibliography import BIB, Paper
from lvlm_atlas.fault import Fault

MAX_BYTE = 4 * 1024 * 1024
"""Largest papers.bib; a work takes half a kilobyte."""

_KEY = re.compile(r"[A-Za-z0-9:_-]{1,64}")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}(?:v\d+)?|[a-z-]+(?:\.[A-Z]{2})?/\d{7}(?:v\d+)?")
_LATEX = re.compile(r"[\\{}$~]|--|``|''")
_VENUES = ("journal", "booktitle", "publisher", "school", "institution", "howpublished")


def read_papers(root: Path) -> tuple[dict[str, Paper], list[Fault]]:
    """The sound works of papers.bib by key, in the file's order, and every fault of the file."""
    if not (root / BIB).exists() and not (root / BIB).is_symlink():
        return {}, [_fault(1, "missing-file", "there is no papers.bib", "add the file; it holds the works cited")]
    from lvlm_atlas.atlas.document import DocumentError, read_text  # noqa: PLC0415 - most commands cite nothing

    try:
        text = read_text(root, BIB, MAX_BYTE)
    except DocumentError as error:
        return {}, [error.fault]
    return parse_papers(text)


def parse_papers(text: str) -> tuple[dict[str, Paper], list[Fault]]:
    """The sound works of a BibTeX text by key, in its order, and every fault of it, said of papers.bib."""
    papers, faults = {}, []
    blocks, plain = _blocks(text)
    for block in blocks:
        paper, block_faults = _paper(block, plain)
        faults += block_faults
        if paper:
            papers[paper.key] = paper
    return papers, faults


def _blocks(text: str) -> tuple[list[Any], Callable[[str], str]]:
    """The blocks of a BibTeX text, names as `Last, First`; and a function that reads LaTeX as plain text."""
    # Imported here: it takes 40 ms, and most commands never read the bibliography.
    import logging  # noqa: PLC0415

    from bibtexparser import middlewares as m  # noqa: PLC0415
    from bibtexparser.entrypoint import parse_string  # noqa: PLC0415

    class Decoder(m.LatexDecodingMiddleware):
        def plain(self, latex: str) -> str:
            text, _ = self._transform_python_value_string(latex) if _LATEX.search(latex) else (latex, "")
            return " ".join(text.split())

    logging.getLogger("bibtexparser").addHandler(logging.NullHandler())  # it prints what our faults say better
    names = [m.SeparateCoAuthors(), m.SplitNameParts(), m.MergeNameParts(style="last")]
    return list(parse_string(text, append_middleware=names).blocks), Decoder().plain


def _paper(block: Any, plain: Callable[[str], str]) -> tuple[Paper | None, list[Fault]]:
    """The work of a block of the file, and what is wrong with it; neither for comments and strings."""
    import bibtexparser.model as bib  # noqa: PLC0415

    line = (block.start_line or 0) + 1
    if isinstance(block, bib.DuplicateBlockKeyBlock):
        message, repair = f"the key {block.key!r} is already taken", "remove one of the two, or rename it"
        return None, [_fault(line, "duplicate-paper", message, repair)]
    if isinstance(block, bib.DuplicateFieldKeyBlock):
        twice = ", ".join(sorted(block.duplicate_keys))
        return None, [_fault(line, "duplicate-field", f"the entry gives {twice} twice", "keep one")]
    if isinstance(block, bib.ParsingFailedBlock):
        detail = " ".join(str(block.error).split()) or "the entry does not end"
        return None, [_fault(line, "bibtex-syntax", detail[:200], "close its braces and quotes, commas between fields")]
    if isinstance(block, bib.ImplicitComment):
        stray = [row for row in block.comment.split("\n") if row.strip() and not row.lstrip().startswith("%")]
        if stray:
            message = f"{stray[0].strip()[:40]!r} lies outside any entry"
            return None, [_fault(line, "bibtex-syntax", message, "begin entries with @, comments with %")]
    if not isinstance(block, bib.Entry):
        return None, []
    return _checked(block, line, plain)


def _checked(entry: Any, line: int, plain: Callable[[str], str]) -> tuple[Paper | None, list[Fault]]:
    given = {field.key.lower(): field for field in entry.fields}
    faults = []

    def refuse(key: str, rule: str, message: str, repair: str) -> None:
        start = given[key].start_line if key in given else None
        faults.append(_fault(line if start is None else start + 1, rule, f"{entry.key!r} {message}", repair))

    values = {key: " ".join(str(field.value).split()) for key, field in given.items() if field.value}
    names = given["author"].value if "author" in given else []
    authors = tuple(plain(name) for name in names if name not in ("", "others"))  # `and others` is no person
    year, arxiv = values.get("year", ""), values.get("eprint")
    is_arxiv = values.get("archiveprefix", "").lower() == "arxiv"
    if arxiv and is_arxiv and _ARXIV.fullmatch(arxiv):
        values.setdefault("url", f"https://arxiv.org/abs/{arxiv}")  # arXiv's own BibTeX may come without
    if not _KEY.fullmatch(entry.key):
        refuse("", "bad-value", "is no key of a work", "use letters, digits, `:`, `_` and `-`, as chen2024fastv")
    for key in ("title", "author", "year", "url"):
        if not (authors if key == "author" else values.get(key)):
            refuse(key, "missing-field", f"lacks {key}", f"add {key} = {{…}}")
    if year and not re.fullmatch(r"[12]\d{3}", year):
        refuse("year", "bad-value", f"has the year {year!r}", "give four digits")
    if values.get("url") and not re.fullmatch(r"https?://[^\s<>\"']+", values["url"]):
        refuse("url", "bad-value", f"has the url {values['url'][:60]!r}", "give an address that begins with https://")
    if arxiv and is_arxiv and not _ARXIV.fullmatch(arxiv):
        refuse("eprint", "bad-value", f"has the arXiv number {arxiv!r}", "write it as 2403.06764")
    if faults:
        return None, faults
    venue = next((plain(values[key]) for key in _VENUES if values.get(key)), "arXiv")
    return Paper(
        key=entry.key, title=plain(values["title"]), authors=authors, year=int(year), venue=venue, url=values["url"],
        arxiv=arxiv if is_arxiv else None, doi=values.get("doi"), bibtex=entry.raw, line=line,
    ), []  # fmt: skip


def _fault(line: int, rule: str, message: str, repair: str) -> Fault:
    return Fault(path=BIB, line=line, rule=rule, message=message, repair=repair)
