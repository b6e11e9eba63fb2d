"""The atlas in memory: every record of a root, checked, immutable, with ids resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lvlm_atlas.atlas.shelves import Shelves, UnknownIdError, folded
from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import FamilyTerm, PositionTerm, Term, Vocabulary

if TYPE_CHECKING:  # imported when a record is asked for: commands that ask for none start faster
    from lvlm_atlas.atlas.bibliography import Paper
    from lvlm_atlas.schema.measurement import Measurement


class SplitIdError(AtlasError):
    """An id that was split into several; the message names them."""


@dataclass(frozen=True, eq=False)
class Atlas(Shelves):
    """All records of one root. Build it with `load`, which reports every fault of the root at once."""

    root: Path
    """Folder that holds taxonomy/, catalog/ and papers.bib."""
    vocabularies: Mapping[str, Vocabulary]
    """Vocabularies by name (`stage`, `bound`, …)."""
    techniques: Mapping[str, Technique]
    """Techniques by id, ids ascending."""
    redirects: Mapping[str, tuple[str, ...]]
    """Technique ids that forward, with the ids they forward to."""
    papers: Mapping[str, Paper]
    """Works by key of papers.bib."""
    measurements: Mapping[str, Measurement]
    """Measurement records by id."""
    paths: Mapping[str, Path]
    """File of each technique, relative to the root."""
    drafts: Mapping[str, Path] = field(default_factory=dict)
    """Files of techniques that are left out, since they still have places to fill in, by id."""

    def technique(self, id_or_alias: str) -> Technique:
        """The technique of that id, former id, name or alias (case, spaces and hyphens do not matter).

        Raises:
            UnknownIdError: there is none, or only a draft; the message suggests the nearest, or how to finish it.
            SplitIdError: the id was split into several.
        """
        if id_or_alias in self.techniques:
            return self.techniques[id_or_alias]
        wanted = self._ids.get(folded(id_or_alias))
        if not wanted:
            if id_or_alias in self.drafts:
                file = self.drafts[id_or_alias]
                raise UnknownIdError(f"{id_or_alias!r} is a draft; `lvlm-atlas check {file}` names what to fill in")
            if id_or_alias in self.systems:
                raise UnknownIdError(f"{id_or_alias!r} is a system, no technique; `lvlm-atlas systems` lists it")
            known = [*self.techniques, *self.redirects]
            raise UnknownIdError(f"no technique {id_or_alias!r}; {suggestion(id_or_alias, known)}")
        if len(wanted) > 1:
            raise SplitIdError(f"technique {id_or_alias!r} was split into {', '.join(wanted)}; name one of them")
        return self.techniques[wanted[0]]

    def term(self, vocabulary: str, id_: str) -> Term:
        """The term of that id; a moved id gives the term it moved to.

        Raises:
            UnknownIdError: no such vocabulary or term; the message suggests the nearest.
            SplitIdError: the term was split into several.
        """
        if vocabulary not in self.vocabularies:
            raise UnknownIdError(f"no vocabulary {vocabulary!r}; {suggestion(vocabulary, self.vocabularies)}")
        terms = self._terms[vocabulary]
        term = terms.get(id_)
        for _ in terms:  # at most as many steps as there are terms: forwards may run in a circle
            if term is not None and term.moved:
                term = terms.get(term.moved)
        if term is not None and term.moved:
            term = None
        if term is None:
            raise UnknownIdError(f"no {vocabulary} {id_!r}; {suggestion(id_, terms)}")
        if term.split:
            raise SplitIdError(f"{vocabulary} {id_!r} was split into {', '.join(term.split)}; name one of them")
        return term

    def terms(self, vocabulary: str) -> tuple[Term, ...]:
        """The live terms of a vocabulary, in the order of its file."""
        return tuple(term for term in self.vocabularies[vocabulary].terms if not term.gone)

    def narrower(self, vocabulary: str, id_: str) -> frozenset[str]:
        """The term's id and the ids of all terms below it."""
        ids = {self.term(vocabulary, id_).id}
        while True:
            more = {t.id for t in self.terms(vocabulary) if t.parent in ids} - ids
            if not more:
                return frozenset(ids)
            ids |= more

    def root_family(self, technique: Technique) -> str:
        """The family of a technique, where its `family` is a subfamily."""
        term = self.term("family", technique.family)
        return term.parent or term.id

    def is_baseline(self, technique: Technique) -> bool:
        """Whether a technique is there to compare others with."""
        family = self.term("family", self.root_family(technique))
        return isinstance(family, FamilyTerm) and family.baseline

    def place(self, technique: Technique) -> int:
        """Where in the pipeline a technique first acts, from 1."""
        positions = (self.term("position", id_) for id_ in technique.acts_at)
        return min(p.order for p in positions if isinstance(p, PositionTerm) and p.order is not None)

    @cached_property
    def _terms(self) -> dict[str, dict[str, Term]]:
        return {name: {t.id: t for t in v.terms} for name, v in self.vocabularies.items()}

    @cached_property
    def _ids(self) -> dict[str, tuple[str, ...]]:
        """Folded id, name or alias → ids. An id wins over another entry's alias."""
        ids: dict[str, tuple[str, ...]] = {}
        for technique in self.techniques.values():
            for word in (technique.name, *technique.aliases):
                ids.setdefault(folded(word), (technique.id,))
        for old in self.redirects:
            ids[folded(old)] = self._targets(old)
        ids.update({folded(id_): (id_,) for id_ in self.techniques})
        return ids

    def _targets(self, old: str) -> tuple[str, ...]:
        """The techniques that a former id leads to in the end; none if it leads in a circle or nowhere."""
        ends: dict[str, None] = {}
        ahead, seen = [old], {old}
        while ahead:
            id_ = ahead.pop(0)
            if id_ in self.techniques:
                ends[id_] = None
            more = [new for new in self.redirects.get(id_, ()) if new not in seen]
            seen.update(more)
            ahead += more
        return tuple(ends)
