"""The same knowledge for programs: a JSON file a record, one for the whole atlas, and which version it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from lvlm_atlas.atlas.bibliography import Paper
from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.exports import to_json
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.neighbourhood import by_law
from lvlm_atlas.graph.results import results_of
from lvlm_atlas.schema.record import Record
from lvlm_atlas.schema.technique import Technique

FORMAT = "lvlm-atlas-technique/3"
"""Names the layout of a technique's JSON; the number rises when a key changes its meaning."""

WHOLE = "atlas.json.gz"
"""The file of the whole atlas. It says again what each technique's own file says, so that it is packed."""


@dataclass(frozen=True)
class Data:
    """The data that the pages show, and which survey they cover."""

    kb: KnowledgeBase

    @cached_property
    def whole(self) -> str:
        """The whole atlas as JSON, without the indents that `lvlm-atlas export` gives it."""
        return _dumped(_stated(json.loads(to_json(self.kb))))

    @property
    def survey(self) -> Paper:
        """The survey: the work that the stages are taken from."""
        papers = (term.source.paper for term in self.kb.atlas.terms("stage") if term.source)
        return self.kb.atlas.papers[next(papers)]

    def technique(self, technique: Technique) -> str:
        """One technique as JSON: the entry as it stands, what the atlas adds to it, and nothing of what is unknown."""
        kb, id_ = self.kb, technique.id
        paper, law = kb.atlas.papers[technique.paper], by_law(kb, id_)
        return _dumped(_stated({
            "format": FORMAT,
            "data": self._data,
            "technique": technique.model_dump(mode="json", by_alias=True, exclude_none=True),
            "paper": {"key": paper.key, "title": paper.title, "authors": list(paper.authors), "year": paper.year,
                      "venue": paper.venue, "url": paper.url, "arxiv": paper.arxiv, "bibtex": paper.bibtex},
            "interactions": [_edge(edge) for edge in kb.interactions(id_)],
            "by_law": {
                "cascades_to_places": [place.id for place in law.feeds],
                "fed_by_places": [place.id for place in law.fed_by],
                "shares_quantities": list(law.shared),
            },
            "compatibility": self._compatible(id_),
            "results": [asdict(result) for result in results_of(kb.atlas, technique)],
            "measured": [
                {"measurement": m.id, **result.model_dump(mode="json", exclude_none=True)}
                for m in kb.atlas.measurements.values() for result in m.results if result.technique == id_
            ],
        }))  # fmt: skip

    def _compatible(self, id_: str) -> dict[str, list[str]]:
        """The other techniques, by whether the two get along."""
        found: dict[str, list[str]] = {"works": [], "breaks": [], "unknown": []}
        for other in sorted(self.kb.atlas.techniques):
            if other != id_:
                found[self.kb.relation(id_, other).value].append(other)
        return found

    def record(self, kind: str, record: Record, predicted: Iterable[dict[str, Any]] = ()) -> str:
        """A model or a device as JSON: the record as it stands, and what the roofline predicts of it.

        What all predictions take for granted is said once, under `assumptions`.
        """
        stated = record.model_dump(mode="json", by_alias=True, exclude_none=True)
        each = [*predicted]
        first = each[0]["assumptions"] if each else []
        shared = [said for said in first if all(said in one["assumptions"] for one in each)]
        own = [one | {"assumptions": [said for said in one["assumptions"] if said not in shared]} for one in each]
        return _dumped({"format": f"lvlm-atlas-{kind}/2", "data": self._data, kind: stated, "assumptions": shared,
                        "predicted": own})  # fmt: skip

    @property
    def _data(self) -> dict[str, str]:
        return {**asdict(self.kb.edition), "survey": self.survey.arxiv or self.survey.key}

    def forwarding(self, old: str, new: Iterable[str]) -> str:
        """A former id as JSON: where it leads."""
        return _dumped({"format": FORMAT, "id": old, "now": list(new)})


def _edge(edge: Edge) -> dict[str, Any]:
    return {
        "start": edge.start, "kind": edge.kind, "end": edge.end, "symmetric": edge.symmetric,
        "reason": edge.reason, "evidence": edge.evidence, "source": edge.source,
    }  # fmt: skip


def _stated(value: Any) -> Any:
    """Data without the keys that have no value: every seventh byte of results would say `null`."""
    if isinstance(value, dict):
        return {key: _stated(each) for key, each in value.items() if each is not None}
    return [_stated(each) for each in value] if isinstance(value, list) else value


def _dumped(document: dict[str, Any]) -> str:
    """JSON with a line a key: the size of a site is made of many such files."""
    lines = (
        f"{json.dumps(key)}:{json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(',', ':'))}"
        for key, value in document.items()
    )
    return "{" + ",\n".join(lines) + "}\n"
