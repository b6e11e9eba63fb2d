"""What a comparison says of a technique: its fields in words, effects, results, and how it stands to others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lvlm_atlas.graph.relations import reading
from lvlm_atlas.graph.result_words import conditions_of, kept_phrase, percent_of, value_of
from lvlm_atlas.graph.results import ReportedResult, results_of
from lvlm_atlas.schema.effect import Effect
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.wording import as_text, change, cost, layers, setting
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.markup import bare

VERDICTS = {"works": "w", "breaks": "b", "unknown": "u"}
"""How a verdict is written in `pairs`."""


def card(content: Content, technique: Technique, numbers: Mapping[str, int]) -> dict[str, Any]:
    """A technique beside others. Interactions are read from it, under the number of the other."""
    edges: dict[int, list[list[str]]] = {}
    for edge in content.kb.interactions(technique.id):
        if edge.evidence != "predicted":
            said = [reading(content.atlas, edge, technique.id), edge.reason, edge.evidence, edge.source]
            edges.setdefault(numbers[edge.other(technique.id)], []).append(said)
    return {
        "summary": bare(technique.summary),
        "fields": dict(_fields(content, technique)),
        "effects": [_effect(effect) for effect in technique.effects],
        "overheads": [f"{each.stage}: {as_text(cost(each))}" for each in technique.overheads],
        "parameters": [f"{name} = {setting(each.default)}" for name, each in technique.parameters.items()],
        "steps": [bare(step.does) for step in technique.algorithm],
        "results": [_result(content, result) for result in results_of(content.atlas, technique)],
        "edges": edges,
    }


def pairs(content: Content) -> list[str]:
    """Whether techniques get along: a row for each, a letter for each other, in the order of their numbers."""
    kb, techniques = content.kb, content.techniques
    return [
        "".join("=" if one is two else VERDICTS[kb.relation(one.id, two.id).value] for two in techniques)
        for one in techniques
    ]


def _fields(content: Content, technique: Technique) -> Iterator[tuple[str, str]]:
    atlas = content.atlas

    def names(kind: str, ids: tuple[str, ...]) -> str:
        return ", ".join(atlas.term(kind, id_).name or id_ for id_ in ids)

    paper = atlas.papers[technique.paper]
    yield "Paper", f"{paper.title} ({paper.year})"
    yield "Stage", names("stage", (technique.stage,))
    yield "Family", names("family", (technique.family,))
    yield "Acts at", names("position", technique.acts_at)
    yield "Relieves", ", ".join(f"{each.stage}/{each.bound}" for each in technique.relieves)
    yield "How", names("mechanism", technique.mechanism)
    yield "Decides by", names("signal", technique.signals) + (", the prompt" if technique.query_aware else "")
    yield "Input", names("modality", technique.modality)
    yield "Training", names("training", (technique.training,))
    yield "Needs", names("need", technique.needs) or "nothing special"
    yield "Withholds", names("need", technique.withholds) or "nothing"
    yield "Ships in", names("engine", tuple(dict.fromkeys(each.engine for each in technique.shipped_in))) or "nothing"
    yield "Code", technique.reference or "none yet"
    yield "Checked", f"against {technique.verified}, {technique.updated}"


def _effect(effect: Effect) -> str:
    where = layers(effect)
    return as_text((f"{effect.quantity} ", *change(effect), *((" ", *where) if where else ())))


def _result(content: Content, result: ReportedResult) -> list[str]:
    """Measure, model, the number in words, and under which conditions."""
    atlas = content.atlas
    model = atlas.models[result.model].name if result.model in atlas.models else result.model
    percent = percent_of(result)
    value = value_of(result) + (f" ({percent} of the unmodified model's)" if percent else "")
    how = "; ".join(filter(None, (kept_phrase(result), conditions_of(result))))
    return [atlas.term(result.kind, result.measure).name or result.measure, model, value, how]
