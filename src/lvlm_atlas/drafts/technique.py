"""The files of a new technique: its entry, and unless it is only described, a reference and its test.

Only what id, family, positions and paper say for certain is filled in; the rest is marked `FILL IN`, and `check`
names every such place.
"""

from __future__ import annotations

import keyword
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.bibliography import BIB
from lvlm_atlas.atlas.loader import inspect
from lvlm_atlas.atlas.root import authored_root
from lvlm_atlas.atlas.shelves import folded
from lvlm_atlas.drafts.inputs import Problems, name_line, require_free, require_paper, require_printable, words_of
from lvlm_atlas.drafts.papers import with_work, work_from
from lvlm_atlas.drafts.points import ExtensionPoint, extension_points
from lvlm_atlas.drafts.templates import AMOUNT, AMOUNTS, DESCRIBED, ENTRY, IMPLEMENTED, METHOD, REFERENCE, TEST
from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.files import write_all
from lvlm_atlas.schema.vocabulary import FamilyTerm, NeedTerm, PositionTerm, QuantityTerm


@dataclass(frozen=True)
class Draft:
    """What a new technique's files are made from."""

    id: str
    name: str
    family: str
    """Its family, or subfamily where there is one."""
    root_family: str
    """The family that `family` is part of, or is."""
    stage: str
    """That of its family, or where a family belongs to any stage that of its first position."""
    positions: tuple[PositionTerm, ...]
    """In pipeline order."""
    paper: str

    @property
    def module(self) -> str:
        """Name of the reference's module."""
        name = self.id.replace("-", "_")
        return name if name.isidentifier() and not keyword.iskeyword(name) else f"technique_{name}"

    @property
    def package(self) -> str:
        """Name of the package that holds the module."""
        return self.stage.replace("-", "_")

    @property
    def class_name(self) -> str:
        """Name of the reference's class: the technique's name, as far as Python takes it."""
        plain = unicodedata.normalize("NFKD", self.name).encode("ascii", "ignore").decode()
        words = re.findall(r"[A-Za-z0-9]+", plain) or re.findall(r"[a-z0-9]+", self.id)
        name = "".join(word[0].upper() + word[1:] for word in words)
        return name if name[0].isalpha() and not keyword.iskeyword(name) else f"Technique{name}"


def scaffold(
    root: Path,
    id_: str,
    *,
    family: str,
    acts_at: Sequence[str],
    paper: str | None,
    name: str | None = None,
    described: bool = False,
    bib: Path | None = None,
) -> list[Path]:
    """Write the files, all or none, and return their paths relative to the root, or to the overlay that it is of.

    Args:
        root: where the catalog lies. Its other records may have faults; they may be drafts themselves.
        id_: id of the technique.
        family: its family or subfamily.
        acts_at: the positions at which it acts, in any order.
        paper: key of its paper, in papers.bib or in `bib`; may be None if `bib` holds one work.
        name: its name; by default the id.
        described: whether to leave out reference and test; then any position will do.
        bib: a BibTeX file from which the paper is taken along into papers.bib.

    Raises:
        AtlasError: the id is taken or malformed, a term or paper is unknown, an extension point has no reference, or
            the root is no checkout that can be written. All of these at once.
    """
    inspection = inspect(root)
    records = inspection.atlas
    problems = Problems()
    attempt = problems.attempt
    own = attempt(lambda: authored_root(root))
    attempt(lambda: require_free(inspection, id_))
    attempt(lambda: require_printable(name))
    place = attempt(lambda: _place_of_family(records, family))
    positions = attempt(lambda: _positions(records, acts_at, described))
    work = attempt(lambda: work_from(bib, paper, records.papers)) if bib else None
    if not bib:
        attempt(lambda: require_paper(records, paper))
    if own and not described and not (own / "src" / "lvlm_atlas").is_dir():
        problems.add(
            f"{own} is no checkout of the project; clone it and point --root at the clone, or give --described"
        )
    problems.refuse()
    if own is None or place is None or positions is None:
        raise AssertionError("refused above")
    family_id, root_family, stage = place
    stage = stage or next(term.stage for term in positions if term.stage)
    draft = Draft(
        id_, name or id_, family_id, root_family, stage=stage, positions=positions,
        paper=work.key if work else paper or "",
    )  # fmt: skip
    files = _files(draft, records, described)
    write_all(own, dict(reversed(files.items())), {BIB: with_work(own, work)} if work else None)
    return [*files, *([BIB] if work else [])]


def _files(draft: Draft, records: Atlas, described: bool) -> dict[Path, str]:
    """Text of each new file by its path, relative to the root."""
    folder = Path("reference", "techniques", draft.package)
    entry = Path("catalog", "techniques", draft.stage, draft.root_family, f"{draft.id}.yaml")
    files = {entry: _entry(draft, records, described)}
    if not described:
        files[Path("src", "lvlm_atlas", folder, f"{draft.module}.py")] = _reference(draft)
        files[Path("tests", folder, f"test_{draft.module}.py")] = TEST.substitute(_names(draft))
    return files


def _place_of_family(records: Atlas, word: str) -> tuple[str, str, str | None]:
    """Id of a family, of the family that it is part of (or is), and of the stage of both; None if that is any stage."""
    term = records.term("family", word)
    root = records.term("family", term.parent) if term.parent else term
    return term.id, root.id, root.stage if isinstance(root, FamilyTerm) else None


def _positions(records: Atlas, words: Sequence[str], described: bool) -> tuple[PositionTerm, ...]:
    """The positions of these ids, names or aliases, in pipeline order."""
    terms = [term for term in records.terms("position") if isinstance(term, PositionTerm)]
    by_word = {folded(alias): term for term in terms for alias in term.aliases}
    by_word |= {folded(word): term for term in terms for word in (term.name or term.id, term.id)}
    chosen: dict[str, PositionTerm] = {}
    problems = []
    for word in words:
        term = by_word.get(folded(word))
        if term is None:
            problems.append(f"no position {word!r}; {suggestion(word, [term.id for term in terms])}")
        elif not described and term.id not in extension_points():
            narrower = [t.id for t in terms if t.parent == term.id and t.id in extension_points()]
            repair = f"did you mean {' or '.join(map(repr, narrower))}?" if narrower else "give --described without one"
            problems.append(f"the reference LVLM has no extension point {term.id!r}; {repair}")
        else:
            chosen[term.id] = term
    if problems:
        raise AtlasError("\n".join(problems))
    return tuple(sorted(chosen.values(), key=lambda term: term.order or 0))


def _names(draft: Draft) -> dict[str, str]:
    """What every template may use."""
    return {
        "id": draft.id, "name": draft.name, "paper": draft.paper, "stage": draft.stage, "family": draft.family,
        "package": draft.package, "module": draft.module, "class_name": draft.class_name,
    }  # fmt: skip


def _entry(draft: Draft, records: Atlas, described: bool) -> str:
    names = _names(draft)
    points = [] if described else [extension_points()[term.id] for term in draft.positions]
    codes = [f"    code: {draft.class_name}.{point.method}\n" for point in points] or [""]
    steps = [f"  - does: FILL IN a step, with shapes and formulas.\n{code}" for code in codes]
    quantities = [_quantity(records, term) for term in draft.positions]
    return ENTRY.substitute(
        names,
        needs="".join(f"{need}, " for need in _needs(records, quantities)),
        name_line=name_line(draft.name),
        positions=", ".join(term.id for term in draft.positions),
        steps="".join(steps).rstrip(),
        effects="\n".join(map(_effect, quantities)),
        rest=(DESCRIBED if described else IMPLEMENTED).substitute(names),
        **words_of(records),
    )


def _quantity(records: Atlas, position: PositionTerm) -> str | None:
    """The first quantity that is decided at a position, or after it; None if there is none."""
    order = {term.id: term.order or 0 for term in records.terms("position") if isinstance(term, PositionTerm)}
    decided = [
        (order[place], term.id)
        for term in records.terms("quantity")
        if isinstance(term, QuantityTerm) and term.position
        for place in (*term.also_at, term.position)
        if order[place] >= order[position.id]
    ]
    return min(decided, key=lambda pair: pair[0])[1] if decided else None


def _needs(records: Atlas, quantities: Sequence[str | None]) -> list[str]:
    """What only can change these quantities."""
    terms = [term for term in records.terms("need") if isinstance(term, NeedTerm)]
    return [term.id for term in terms if {*term.follows_from} & {*quantities}]


def _effect(quantity: str | None) -> str:
    if quantity is None:
        return "  - quantity: FILL IN what `lvlm-atlas terms quantity` lists, and its amount"
    return f"  - quantity: {quantity}\n{AMOUNTS.get(quantity, AMOUNT)}"


def _reference(draft: Draft) -> str:
    points = [extension_points()[term.id] for term in draft.positions]
    return REFERENCE.substitute(
        _names(draft),
        imports=_imports(points),
        positions=", ".join(f'"{point.position}"' for point in points),
        methods="\n\n".join(_method(point) for point in points),
    )


def _method(point: ExtensionPoint) -> str:
    body = (
        f"return {point.passes_on}  # FILL IN: call a pure function on bare tensors, written above"
        if point.passes_on
        else f'raise NotImplementedError("FILL IN: {point.method} must return something of its own")'
    )
    return METHOD.substitute(signature=point.signature, doc=point.doc, body=body)


def _imports(points: Sequence[ExtensionPoint]) -> str:
    """The import lines of a reference at some points: Python's own, those of packages, ours."""
    base = {("dataclasses", "dataclass"), ("typing", "ClassVar"), ("lvlm_atlas.reference.lvlm.technique", "Technique")}
    pairs = base | {pair for point in points for pair in point.imports}
    blocks: dict[int, list[str]] = {}
    for module, group in groupby(sorted(pairs), key=lambda pair: pair[0]):
        package = module.partition(".")[0]
        rank = 0 if package in sys.stdlib_module_names else 2 if package == "lvlm_atlas" else 1
        blocks.setdefault(rank, []).append(f"from {module} import {', '.join(name for _, name in group)}")
    return "\n\n".join("\n".join(lines) for _, lines in sorted(blocks.items()))
