"""Whatever an id names: a technique, a model, a device, a workload, a system, a list, a runtime, terms, or a work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.bibliography import Paper
from lvlm_atlas.atlas.shelves import UnknownIdError, folded
from lvlm_atlas.cli.options import named
from lvlm_atlas.cli.rows import edge_row, whole_row
from lvlm_atlas.cli.sheet import sheet
from lvlm_atlas.cli.terminal import Block, Column, Indented, Table, Text
from lvlm_atlas.fault import suggestion
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.schema.record import Record
from lvlm_atlas.schema.technique import Technique

Named = tuple[str, Record | Paper]
"""What kind of record it is (`model`, `bound`, …), and the record."""


def records_named(kb: KnowledgeBase, word: str) -> tuple[Named, ...]:
    """The record of that id, name or alias; terms of that id in every vocabulary that has one.

    Raises:
        UnknownIdError: there is none; the message suggests the nearest.
        SplitIdError: it is a technique that was split.
    """
    atlas = kb.atlas
    shelves: Mapping[str, Callable[[str], Record]] = {
        "technique": lambda id_: named(kb, id_), "model": atlas.model, "device": atlas.device,
        "workload": atlas.workload, "system": atlas.system, "list": atlas.list_,
        "runtime": atlas.runtime,
    }  # fmt: skip
    for kind, shelf in shelves.items():
        with suppress(UnknownIdError):
            return ((kind, shelf(word)),)
    if word in atlas.papers:
        return (("work", atlas.papers[word]),)
    terms: tuple[Named, ...] = tuple(
        (name, term)
        for name in sorted(atlas.vocabularies)
        for term in atlas.terms(name)
        if folded(word) in map(folded, (term.id, term.name or term.id, *term.aliases))
    )
    if terms:
        return terms
    raise UnknownIdError(f"nothing is called {word!r}; {suggestion(word, _ids(atlas), list(atlas.techniques))}")


def record_json(kb: KnowledgeBase, record_named: Named) -> dict[str, Any]:
    """The whole record, of a technique with its edges."""
    kind, record = record_named
    if isinstance(record, Technique):
        edges = [edge_row(edge) for edge in kb.interactions(record.id)]
        return {**whole_row(kb.atlas, record), "edges": edges}
    return {"record": kind, **_fields(record)}


def record_sheet(kb: KnowledgeBase, record_named: Named) -> list[Block]:
    """A record for the terminal: what the page of a technique says, of others every field that they have."""
    kind, record = record_named
    if isinstance(record, Technique):
        return sheet(kb, record)
    values = _fields(record)
    title = str(values.get("name") or values["title"])
    parts: list[Block] = [Text.assemble((title, "bold"), f"  {values.get('id') or values['key']}  ({kind})"), Text("")]
    facts = Table([Column(style="dim", wrap=False), Column()], head=False)
    facts.rows += [(name, _lines(value)) for name, value in values.items() if value != title and _is_given(value)]
    parts.append(facts)
    if isinstance(record, Paper):
        from_it = [t.id for t in kb.atlas.techniques.values() if record.key in (t.paper, *t.also)]
        parts += [Text(""), Text("Techniques", style="bold"), Indented(Text(", ".join(from_it) or "none is from it"))]
    return parts


def _fields(record: Record | Paper) -> dict[str, Any]:
    if isinstance(record, Paper):
        return {name: value for name, value in asdict(record).items() if name != "line"}
    return record.model_dump(mode="json", by_alias=True, exclude_none=True)


def _lines(value: object) -> str:
    """A field: each of its parts on a line of its own, if it has parts."""
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_words(each)}" for name, each in value.items() if _is_given(each))
    if isinstance(value, (list, tuple)) and any(isinstance(each, Mapping) for each in value):
        return "\n".join(map(_words, value))
    return _words(value)


def _words(value: object) -> str:
    """A value in one line, however deep it is."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_words(each)}" for name, each in value.items() if _is_given(each))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split())


def _is_given(value: object) -> bool:
    return value is not None and value not in ([], {}, "")


def _ids(atlas: Atlas) -> Iterator[str]:
    """Everything that can be shown."""
    shelves = (atlas.models, atlas.hardware, atlas.workloads, atlas.systems, atlas.lists, atlas.runtimes)
    for shelf in (atlas.techniques, *shelves):
        yield from shelf
    yield from atlas.papers
    yield from (term.id for name in atlas.vocabularies for term in atlas.terms(name))
