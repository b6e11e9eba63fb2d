"""What the scripts of the pages know of the atlas: names and facets of techniques, and which requests are answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from lvlm_atlas.graph.results import results_of
from lvlm_atlas.planner.planner import DEFAULT_RUNTIME
from lvlm_atlas.planner.risk import RISKS, risk
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.site.answers.scope import GOALS, MOST, RISK, Scope
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.estimates import REFERENCE
from lvlm_atlas.site.svg import stage_number

GOAL_WORDS = {"ttft": "time to the first token", "tpot": "time per token", "total": "time of the whole request",
              "memory": "memory of a device"}  # fmt: skip


def numbers(content: Content) -> Mapping[str, int]:
    """The number by which a technique goes in the scripts: its place in the order of the pages."""
    return {technique.id: number for number, technique in enumerate(content.techniques)}


def index(content: Content, scope: Scope) -> dict[str, Any]:
    """All that does not depend on a request."""
    estimates = content.estimates
    return {
        "edition": str(content.kb.edition),
        "efficiency": REFERENCE.efficiency,
        "runtime": DEFAULT_RUNTIME if DEFAULT_RUNTIME in content.atlas.runtimes else None,
        "reference": {"model": REFERENCE.model, "device": REFERENCE.device, "workload": REFERENCE.workload,
                      "goal": GOALS[0]},
        "risk": RISK,
        "most": MOST,
        "risks": RISKS,
        "goals": [{"id": goal, "name": GOAL_WORDS[goal]} for goal in GOALS],
        "models": [{"id": each.id, "name": each.name} for each in estimates.models.values()],
        "devices": [{"id": id_, "name": estimates.devices[id_].name, "byte": estimates.devices[id_].memory_byte}
                    for id_ in scope.every_device],
        "devices_of_all": scope.devices,
        "workloads": [{"id": id_, "name": content.atlas.workloads[id_].name} for id_ in scope.workloads],
        "stages": {term.id: stage_number(content.atlas, term.id) for term in content.atlas.terms("stage")},
        "verified": [term.id for term in content.atlas.terms("verification")],
        "techniques": [_technique(content, each) for each in content.techniques],
    }  # fmt: skip


def _technique(content: Content, technique: Technique) -> dict[str, Any]:
    return {
        "id": technique.id,
        "name": technique.name,
        "page": content.routes.html("index.md", "technique", technique.id),
        "stage": technique.stage,
        "family": content.atlas.root_family(technique),
        "risk": risk(technique),
        "engines": sorted({each.engine for each in technique.shipped_in}),
        "year": content.atlas.papers[technique.paper].year,
        "verified": technique.verified,
        "runs": technique.reference is not None,
        "results": len(results_of(content.atlas, technique)),
        "kept": dict(_kept(content, technique)),
    }


def _kept(content: Content, technique: Technique) -> Iterator[tuple[str, list[float]]]:
    """Scores in percent of the unmodified model's: least, most and how many, of each model and, under ``, of all."""
    shares: dict[str, list[float]] = defaultdict(list)
    for result in results_of(content.atlas, technique):
        if result.kind == "benchmark" and result.better == "higher" and result.percent_of_baseline is not None:
            shares[""].append(result.percent_of_baseline)
            if result.model in content.atlas.models:
                shares[result.model].append(result.percent_of_baseline)
    for model, percents in shares.items():
        yield model, [round(min(percents), 1), round(max(percents), 1), len(percents)]
