"""Answers a query: which techniques, why each, and if none, which condition emptied the answer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

from lvlm_atlas.atlas.shelves import UnknownIdError, folded
from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.graph.answer import Answer, Reason, Row
from lvlm_atlas.graph.expression import And, Call, Condition, Not, Or, Query, QueryError, Word
from lvlm_atlas.graph.field_table import FIELDS, field_named
from lvlm_atlas.graph.fields import TermField
from lvlm_atlas.graph.parser import parse
from lvlm_atlas.graph.relations import reading, relation_named, relations
from lvlm_atlas.graph.terms import UnknownValueError, term_named
from lvlm_atlas.schema.technique import Technique

if TYPE_CHECKING:
    from lvlm_atlas.graph.edges import Edge
    from lvlm_atlas.graph.interactions import Interactions

Found = dict[str, tuple[Reason, ...]]
"""Why each technique is found, by id."""

VERDICTS = {"workswith": "works", "breakswith": "breaks", "unknownwith": "unknown"}
"""Relations that read the verdict over all edges of a pair."""
LIKENESS = ("family", "mechanism", "signal")
"""The fields that `like` compares."""


def answer(kb: Interactions, text: str) -> Answer:
    """The answer to a query.

    Raises:
        QueryError: the query cannot be answered as written.
    """
    search = _Search(kb, text)
    tree = parse(text)
    matches = search.find(tree)
    rows = tuple(Row(kb.atlas.techniques[id_], matches[id_]) for id_ in sorted(matches))
    return Answer(text, rows, "" if rows else search.why_empty(tree))


def required(text: str, fields: Collection[str]) -> dict[str, str]:
    """The one value that a query requires of each of some fields; not those of which it requires several, or none.

    Raises:
        QueryError: the query cannot be answered as written.
    """
    tree = parse(text)
    values: dict[str, list[str]] = {}
    for part in tree.parts if isinstance(tree, And) else (tree,):
        if isinstance(part, Condition) and part.comparison in (":", "="):
            values.setdefault(field_named(part.name).name, []).append(part.value)
    return {name: found[0] for name, found in values.items() if name in fields and len(found) == 1}


@dataclass(frozen=True)
class _Search:
    """One query on its way to an answer."""

    kb: Interactions
    text: str

    def find(self, query: Query) -> Found:
        """The techniques that a part of the query finds."""
        match query:
            case Word():
                return self._word(query)
            case Condition():
                return self._condition(query)
            case Call():
                return self._call(query)
            case Not():
                out = self.find(query.of)
                because = (Reason(str(query), f"`{query.of}` does not hold"),)
                return {id_: because for id_ in self.kb.atlas.techniques if id_ not in out}
            case And():
                first, *rest = map(self.find, query.parts)
                ids = first.keys() & set.intersection(*({*found} for found in rest))
                return {id_: sum((found[id_] for found in (first, *rest)), ()) for id_ in ids}
            case Or():
                every = [self.find(part) for part in query.parts]
                ids = {id_ for found in every for id_ in found}
                return {id_: sum((found.get(id_, ()) for found in every), ()) for id_ in ids}

    def why_empty(self, query: Query) -> str:
        """Which condition left a part of the query without techniques."""
        total = len(self.kb.atlas.techniques)
        if not total:
            return "the atlas holds no technique"
        match query:
            case Not():
                return f"`{query.of}` holds for all {total} techniques"
            case Or():
                return "; ".join(map(self.why_empty, query.parts))
            case Call() if not self.find(query.of):
                return self.why_empty(query.of)
            case And():
                return self._why_nothing_in_common(query)
            case _:
                return f"`{query}` holds for none of the {total} techniques"

    def _why_nothing_in_common(self, query: And) -> str:
        parts = [(part, self.find(part).keys()) for part in query.parts]
        for part, ids in parts:
            if not ids:
                return self.why_empty(part)
        for (one, ids), (two, others) in combinations(parts, 2):
            if not ids & others:
                return f"`{one}` finds {len(ids)} and `{two}` finds {len(others)}, but none is in both"
        left = set(parts[0][1])
        for part, ids in parts[1:]:
            if not left & ids:
                return f"the {len(left)} left ({', '.join(sorted(left)[:5])}) are not in `{part}`"
            left &= ids
        raise AssertionError("an intersection cannot be empty and not empty")

    def _condition(self, query: Condition) -> Found:
        try:
            field = field_named(query.name)
        except UnknownIdError as error:
            raise self._error(query.column, error) from None
        equal = query.comparison in (":", "=")
        if not (equal or field.ordered):
            raise QueryError(self.text, query.column, f"{field.name} has no order; write {field.name}:{query.value}")
        try:
            test = field.test(self.kb.atlas, query.value if equal else query.comparison + query.value)
        except AtlasError as error:
            raise self._error(query.value_column, error) from None
        said = ((t.id, test(t)) for t in self.kb.atlas.techniques.values())
        return {id_: (Reason(str(query), what),) for id_, what in said if what is not None}

    def _word(self, query: Word) -> Found:
        try:
            technique = self.kb.technique(query.text)
        except UnknownIdError:
            return self._mentions(query)
        except AtlasError as error:
            raise self._error(query.column, error) from None
        how = "the id" if folded(technique.id) == folded(query.text) else "a name or former id of"
        return {technique.id: (Reason(str(query), f"{how} {technique.id}"),)}

    def _mentions(self, query: Word) -> Found:
        wanted = _spaced(query.text)
        mentions: Found = {}
        for technique in self.kb.atlas.techniques.values():
            where = {name: _spaced(text) for name, text in _texts(technique)}
            hits = [name for name, text in where.items() if wanted and wanted in text]
            if hits:
                mentions[technique.id] = (Reason(str(query), f"stands in its {' and '.join(hits)}"),)
        if not mentions:
            raise QueryError(self.text, query.column, self._unknown_word(query.text))
        return mentions

    def _unknown_word(self, word: str) -> str:
        problem = f"no technique is called {word!r} or mentions it"
        for field in FIELDS:
            if isinstance(field, TermField):
                try:
                    id_ = term_named(self.kb.atlas, field.vocabulary, word, field.name)
                except (UnknownValueError, UnknownIdError):
                    continue
                return f"{problem}; did you mean {field.name}:{id_}?"
        for field in FIELDS:
            if folded(word) in map(folded, (field.name, *field.aliases)):
                return f"{problem}; it is a field, such as {field.example}"
        for relation in relations(self.kb.atlas):
            if folded(relation.name) == folded(word):
                return f"{problem}; the relation is written {relation.name}(…), with no space"
        techniques = self.kb.atlas.techniques.values()
        return f"{problem}; {suggestion(word, [name for t in techniques for name in (t.id, t.name, *t.aliases)])}"

    def _call(self, query: Call) -> Found:
        name = folded(query.name)
        most = 2 if name == "within" else 0
        if len(query.extra) > most:
            shape = "within(…, steps, kind)" if most else f"{query.name}(…)"
            raise QueryError(self.text, query.extra[most].column, f"one argument too many; write {shape}")
        if name == "within":
            return self._within(query)
        if name == "like":
            return self._like(query)
        if name in VERDICTS:
            return self._verdicts(query, VERDICTS[name])
        return self._related(query)

    def _related(self, query: Call) -> Found:
        atlas = self.kb.atlas
        try:
            relation = relation_named(atlas, query.name)
        except UnknownIdError:
            names = [*(r.name for r in relations(atlas)), "works-with", "breaks-with", "unknown-with", "within", "like"]
            near = suggestion(query.name.lower().replace("_", "-"), names)
            raise QueryError(self.text, query.column, f"no relation {query.name!r}; {near}") from None
        reasons = []
        for object_ in sorted(self.find(query.of)):
            for edge in self.kb.of_kind(object_, relation.kind):
                subject = edge.other(object_)
                if relation.holds(edge, subject):
                    said = f"{subject} {reading(atlas, edge, subject)} {object_}"
                    reasons.append((subject, Reason(str(query), said, (edge,))))
        return _by_id(reasons)

    def _verdicts(self, query: Call, value: str) -> Found:
        reasons = []
        for object_ in sorted(self.find(query.of)):
            for id_ in self.kb.atlas.techniques:
                if id_ == object_:
                    continue
                verdict = self.kb.relation(id_, object_)
                if verdict.value == value:
                    said = f"{id_} {value} with {object_}" if verdict.edges else f"nothing settles {id_} with {object_}"
                    reasons.append((id_, Reason(str(query), said, verdict.edges)))
        return _by_id(reasons)

    def _like(self, query: Call) -> Found:
        """Those that save in the same way and decide by the same, or save in the same way in the same family."""
        reasons = []
        for object_ in sorted(self.find(query.of)):
            own = self._terms(object_)
            for id_ in self.kb.atlas.techniques:
                shared = {name: [t for t in terms if t in own[name]] for name, terms in self._terms(id_).items()}
                if id_ != object_ and shared["mechanism"] and (shared["signal"] or shared["family"]):
                    words = "; ".join(f"{name} {', '.join(terms)}" for name, terms in shared.items() if terms)
                    reasons.append((id_, Reason(str(query), f"{id_} shares with {object_}: {words}")))
        return _by_id(reasons)

    def _terms(self, id_: str) -> dict[str, tuple[str, ...]]:
        """What `like` compares of a technique."""
        fields = [field for field in FIELDS if isinstance(field, TermField) and field.name in LIKENESS]
        return {field.name: field.ids(self.kb.atlas, self.kb.atlas.techniques[id_]) for field in fields}

    def _within(self, query: Call) -> Found:
        if not query.extra:
            raise QueryError(self.text, query.column, "within lacks the number of steps; write within(…, 2)")
        steps, *kinds = query.extra
        if not re.fullmatch(r"[1-9]\d?", steps.text, re.ASCII):
            raise QueryError(self.text, steps.column, f"the number of steps is 1 to 99, got {steps.text!r}")
        try:
            kind = relation_named(self.kb.atlas, kinds[0].text).kind if kinds else None
        except UnknownIdError as error:
            raise self._error(kinds[0].column, error) from None
        nearest: dict[str, list[str]] = {}
        for start in sorted(self.find(query.of)):
            for end, path in self.kb.paths(start, int(steps.text), kind).items():
                nearest[end] = min(nearest.get(end, path), path, key=len)
        return {
            end: (Reason(str(query), " – ".join(path), tuple(self._step(*ends, kind) for ends in pairwise(path))),)
            for end, path in nearest.items()
        }

    def _step(self, one: str, two: str, kind: str | None) -> Edge:
        """An edge of that kind between two neighbours on a path."""
        return next(edge for edge in self.kb.each_between(one, two) if kind in (None, edge.kind))

    def _error(self, column: int, error: AtlasError) -> QueryError:
        return QueryError(self.text, column, str(error))


def _by_id(reasons: Iterable[tuple[str, Reason]]) -> Found:
    matches: Found = {}
    for id_, reason in reasons:
        matches[id_] = (*matches.get(id_, ()), reason)
    return matches


def _texts(technique: Technique) -> tuple[tuple[str, str], ...]:
    return (
        ("id", technique.id),
        ("name", technique.name),
        ("aliases", " / ".join(technique.aliases)),
        ("summary", technique.summary),
    )


def _spaced(text: str) -> str:
    """The text for searching: one case, and spaces for hyphens and underscores."""
    return " ".join(re.sub(r"[-_\s]+", " ", text.casefold()).split())
