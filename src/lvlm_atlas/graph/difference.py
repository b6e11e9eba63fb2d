"""What changed between two editions of the data: records, statements between techniques, reported numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.knowledge import KnowledgeBase

Change = Literal["added", "removed", "changed"]
KINDS = ("techniques", "models", "hardware", "workloads", "systems", "runtimes", "timings", "vocabularies", "papers")
"""Kinds of records that are compared, by their names in `Atlas`."""
_APART = ("interactions", "reported")
"""Fields of techniques that are compared item by item, as edges and numbers."""


@dataclass(frozen=True, order=True)
class Difference:
    """One thing that two editions do not share."""

    kind: str
    """`technique`, `model`, …, `edge` or `number`."""
    id: str
    """What it is called: an id, the ends of an edge, a technique with what it reports."""
    change: Change
    what: str = ""
    """Of a changed record, the fields that differ; else what was added or removed, in a line."""


def differences(old: KnowledgeBase, new: KnowledgeBase) -> list[Difference]:
    """Everything that differs, records before edges and numbers."""
    records = [each for kind in KINDS for each in _records(kind, old.atlas, new.atlas)]
    edges = _items("edge", _edges(old), _edges(new))
    numbers = _items("number", _numbers(old.atlas), _numbers(new.atlas))
    return [*records, *sorted(edges), *sorted(numbers)]


def _records(kind: str, old: Atlas, new: Atlas) -> Iterator[Difference]:
    before, after = getattr(old, kind), getattr(new, kind)
    name = {"hardware": "device", "vocabularies": "vocabulary"}.get(kind, kind.removesuffix("s"))
    for id_ in sorted({*before, *after}):
        if id_ not in before:
            yield Difference(name, id_, "added", _title(after[id_]))
        elif id_ not in after:
            moved = new.redirects.get(id_, ()) if kind == "techniques" else ()
            yield Difference(name, id_, "removed", f"now {', '.join(moved)}" if moved else _title(before[id_]))
        elif fields := _changed(_fields(before[id_]), _fields(after[id_])):
            yield Difference(name, id_, "changed", ", ".join(fields))


def _title(record: Any) -> str:
    return str(next((text for name in ("summary", "name", "title") if (text := getattr(record, name, None))), ""))


def _fields(record: Any) -> dict[str, Any]:
    if isinstance(record, BaseModel):
        return {name: value for name, value in record.model_dump(mode="json").items() if name not in _APART}
    return dict(vars(record))


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]


def _items(kind: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Difference]:
    """Things that are there or not; what differs in its text under one name is changed."""
    for id_ in {*before, *after}:
        if id_ not in before:
            yield Difference(kind, id_, "added", after[id_])
        elif id_ not in after:
            yield Difference(kind, id_, "removed", before[id_])
        elif before[id_] != after[id_]:
            yield Difference(kind, id_, "changed", after[id_])


def _edges(kb: KnowledgeBase) -> dict[str, str]:
    """Statements by their ends and kind, with evidence and reason."""
    return {f"{edge.start} {edge.kind} {edge.end}": f"{edge.reason} [{edge.evidence}]" for edge in kb.edges}


def _numbers(atlas: Atlas) -> dict[str, str]:
    """Reported numbers by technique, model, setting and metric, with value and source."""
    numbers: dict[str, str] = {}
    for technique in atlas.techniques.values():
        for said in technique.reported:
            setting = ",".join(f"{name}={value}" for name, value in sorted(said.setting.items()))
            kept = said.tokens_kept or said.share_kept or ""
            for result in said.results:
                where = (said.model or said.model_name or "", setting, str(kept), said.device or "", result.data or "")
                about = " ".join(filter(None, (technique.id, result.benchmark or result.metric, *where)))
                baseline = "" if result.baseline is None else f" (without: {result.baseline:g})"
                value = f"{result.value:g}{baseline} [{said.source.paper}, {said.source.place}]"
                numbers[about] = f"{numbers[about]}; {value}" if about in numbers else value
    return numbers
