"""The fields of a query: what each compares, how a value is written, an example. The one table of them."""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.shelves import UnknownIdError, folded
from lvlm_atlas.fault import suggestion
from lvlm_atlas.graph.terms import UnknownValueError, term_named
from lvlm_atlas.schema.technique import Technique

Test = Callable[[Technique], str | None]
"""Says what in a technique meets a condition, or None."""

COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    ":": operator.eq,
    "=": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
"""What may stand between a field and its value; only numbers have an order."""
_YEAR = re.compile(r"([<>]=?|=)?([0-9]{4})")


@dataclass(frozen=True, kw_only=True, eq=False)
class Field(ABC):
    """One field."""

    name: str
    """As written in a query."""
    doc: str
    """What it compares, in a line."""
    example: str
    """A condition that uses it."""
    aliases: tuple[str, ...] = ()
    """Other names a query may use."""
    ordered: bool = False
    """Whether `<`, `<=`, `>` and `>=` make sense."""

    @abstractmethod
    def known(self, atlas: Atlas) -> tuple[str, ...]:
        """The values it can have, for help and completion."""

    @abstractmethod
    def test(self, atlas: Atlas, value: str) -> Test:
        """The test for `name:value`; in an ordered field the value may begin with a comparison.

        Raises:
            AtlasError: the field has no such value.
        """

    def _choose(self, value: str, known: Iterable[str]) -> str:
        """The known value that is meant."""
        words = {folded(word): word for word in known}
        if folded(value) not in words:
            raise UnknownValueError(f"{self.name} is never {value!r}; {suggestion(value, words.values())}")
        return words[folded(value)]


@dataclass(frozen=True, kw_only=True, eq=False)
class TermField(Field):
    """A field whose values are the terms of a vocabulary; a broader term finds the narrower ones."""

    vocabulary: str
    """Which vocabulary."""
    of: Callable[[Technique], Iterable[str]]
    """The term ids of a technique."""
    detail: Callable[[Technique, str], str] | None = None
    """What more the technique's entry says of one of its terms."""

    def known(self, atlas: Atlas) -> tuple[str, ...]:
        """All live terms."""
        return tuple(term.id for term in atlas.terms(self.vocabulary))

    def ids(self, atlas: Atlas, technique: Technique) -> tuple[str, ...]:
        """The terms of a technique, once each, former ids followed."""
        return tuple(dict.fromkeys(atlas.term(self.vocabulary, id_).id for id_ in self.of(technique)))

    def test(self, atlas: Atlas, value: str) -> Test:
        """Whether the term, or one below it, is among the technique's."""
        wanted = atlas.narrower(self.vocabulary, term_named(atlas, self.vocabulary, value, self.name))
        return lambda t: _said(self.name, (self._shown(t, id_) for id_ in self.ids(atlas, t) if id_ in wanted))

    def _shown(self, technique: Technique, id_: str) -> str:
        return f"{id_}, {self.detail(technique, id_)}" if self.detail else id_


@dataclass(frozen=True, kw_only=True, eq=False)
class ReliefField(Field):
    """The walls a technique moves: `stage/bound`, or either alone."""

    def known(self, atlas: Atlas) -> tuple[str, ...]:
        """Stages, bounds, and pairs of them."""
        stages, bounds = ([term.id for term in atlas.terms(name)] for name in ("stage", "bound"))
        return (*stages, *bounds, *(f"{stage}/{bound}" for stage in stages for bound in bounds))

    def test(self, atlas: Atlas, value: str) -> Test:
        """Whether a wall of that stage and bound is relieved."""
        stage, bound = self._split(atlas, value)
        stages = atlas.narrower("stage", stage) if stage else None
        bounds = atlas.narrower("bound", bound) if bound else None
        return lambda t: _said(
            self.name,
            (
                f"{relief.stage}/{relief.bound}"
                for relief in t.relieves
                if (stages is None or atlas.term("stage", relief.stage).id in stages)
                and (bounds is None or atlas.term("bound", relief.bound).id in bounds)
            ),
        )

    def _split(self, atlas: Atlas, value: str) -> tuple[str, str]:
        """Stage and bound of a value; one of them may be empty."""
        stage, slash, bound = value.partition("/")
        if slash:
            return (
                term_named(atlas, "stage", stage, f"the stage of {self.name}"),
                term_named(atlas, "bound", bound, f"the bound of {self.name}"),
            )
        for vocabulary in ("stage", "bound"):
            with suppress(UnknownValueError):
                id_ = term_named(atlas, vocabulary, value, self.name)
                return (id_, "") if vocabulary == "stage" else ("", id_)
        raise UnknownValueError(f"{self.name} is never {value!r}; {suggestion(value, self.known(atlas))}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ChoiceField(Field):
    """A field with a few fixed values."""

    choices: tuple[str, ...]
    """The values."""
    of: Callable[[Atlas, Technique], Iterable[str]]
    """Those that a technique has."""

    def known(self, atlas: Atlas) -> tuple[str, ...]:  # noqa: ARG002 other fields look there
        """The choices."""
        return self.choices

    def test(self, atlas: Atlas, value: str) -> Test:
        """Whether the technique has that choice."""
        wanted = self._choose(value, self.choices)
        return lambda t: f"{self.name}: {wanted}" if wanted in self.of(atlas, t) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class PaperField(Field):
    """The works that define a technique, by key."""

    def known(self, atlas: Atlas) -> tuple[str, ...]:
        """All keys of the bibliography."""
        return tuple(atlas.papers)

    def test(self, atlas: Atlas, value: str) -> Test:
        """Whether that work defines the technique."""
        wanted = self._choose(value, atlas.papers)
        return lambda t: f"paper: {wanted}" if wanted in (t.paper, *t.also) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelField(Field):
    """The models of reported numbers."""

    def known(self, atlas: Atlas) -> tuple[str, ...]:
        """Those of the catalog, and those that entries name as printed."""
        printed = {e.model_name for t in atlas.techniques.values() for e in t.reported if e.model_name}
        return (*atlas.models, *sorted(printed))

    def test(self, atlas: Atlas, value: str) -> Test:
        """Whether a number of the technique is of that model; a name or alias of the catalog will do."""
        named = value
        with suppress(UnknownIdError):
            named = atlas.model(value).id
        wanted = self._choose(named, self.known(atlas))
        return lambda t: _said(self.name, (e.model_given for e in t.reported if e.model_given == wanted))


@dataclass(frozen=True, kw_only=True, eq=False)
class YearField(Field):
    """The year of the introducing paper."""

    def known(self, atlas: Atlas) -> tuple[str, ...]:
        """The years of the techniques' papers."""
        years = {atlas.papers[t.paper].year for t in atlas.techniques.values()}
        return tuple(map(str, sorted(years)))

    def test(self, atlas: Atlas, value: str) -> Test:
        """Whether the year compares so with that of the technique's paper."""
        match = _YEAR.fullmatch(value)
        if not match:
            raise UnknownValueError(f"{self.name} is a number such as 2025, got {value!r}")
        compare, wanted = COMPARISONS[match[1] or ":"], int(match[2])

        def test(technique: Technique) -> str | None:
            year = atlas.papers[technique.paper].year
            return f"year: {year}" if compare(year, wanted) else None

        return test


def _said(name: str, values: Iterable[str]) -> str | None:
    listed = ", ".join(dict.fromkeys(values))
    return f"{name}: {listed}" if listed else None
