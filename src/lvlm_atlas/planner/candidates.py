"""Which techniques a search may use, at which settings, and why not the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.equal_quality import at_quality
from lvlm_atlas.planner.objective import Objective
from lvlm_atlas.planner.plan import Lost
from lvlm_atlas.planner.risk import RISKS, risk
from lvlm_atlas.planner.search import Candidate, candidate
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.specs.answers import Kept
from lvlm_atlas.specs.fits import problem
from lvlm_atlas.specs.stack import Choice, milder, parse


@dataclass(frozen=True)
class Candidates:
    """The techniques of a search."""

    searched: tuple[Candidate, ...]
    """Techniques at settings, in pipeline order."""
    required: int
    """Those of which each stack has one, as bits; 0: none need be."""
    left_out: tuple[Lost, ...]
    """Techniques that are not searched."""
    settings: str
    """Which settings are searched, in words."""
    answers: Mapping[str, Kept]
    """What techniques keep of the answers at the settings that are searched, where that was asked for."""


def candidates(kb: KnowledgeBase, baseline: Estimate, objective: Objective) -> Candidates:
    """What is searched for an objective.

    Raises:
        AtlasError: a query or a setting cannot be read, or the required techniques are all left out.
    """
    required = None if objective.require is None else _matches(kb, "--require", objective.require)
    excluded = set() if objective.exclude is None else _matches(kb, "--exclude", objective.exclude)
    given: dict[str, list[Choice]] = {}
    for setting in (parse(kb, text) for text in objective.settings):
        given.setdefault(setting.technique.id, []).append(setting)
    baselines = {technique.id for technique in kb.atlas.techniques.values() if kb.atlas.is_baseline(technique)}
    wanted = {*given} | (required if required and required <= baselines else set())
    searched: list[Candidate] = []
    left_out: list[Lost] = []
    answers: dict[str, Kept] = {}
    for technique in kb.atlas.techniques.values():
        if technique.id in excluded:
            why: str | None = "--exclude finds it"
        elif technique.id in baselines - wanted:
            why = f"is a baseline, there to compare with; --require {technique.id} asks for it"
        else:
            why = _barred(kb, technique, baseline, objective, asked=technique.id in {*given} | (required or set()))
        if why:
            left_out.append(Lost(technique.id, "left-out", why))
            continue
        choices = given.get(technique.id)
        if choices is None and objective.quality is not None:
            equal = at_quality(kb, technique, objective.quality, baseline)
            if isinstance(equal, str):
                left_out.append(Lost(technique.id, "left-out", equal))
                continue
            answers[technique.id], choices = equal.kept, [equal.choice]
        searched += [candidate(kb, choice) for choice in choices or [Choice(technique)]]
        if objective.milder and choices is None and (choice := milder(technique)):
            searched.append(candidate(kb, choice, milder=True))
    searched.sort(key=lambda each: (each.applied.order, each.id))
    bits = 0 if required is None else sum(1 << i for i, each in enumerate(searched) if each.id in required)
    if required is not None and not bits:
        barred = [each.what for each in left_out if each.what in required]
        why = f"{barred[0]} is left out" if barred else "it finds no technique"
        raise AtlasError(f"--require leaves nothing to search: {why}; ask for less")
    return Candidates(tuple(searched), bits, tuple(left_out), _settings(given, objective), answers)


def _settings(given: Collection[str], objective: Objective) -> str:
    said = "each technique at its entry's default setting"
    if quality := objective.quality:
        task = f"in the task {quality.task}" if quality.task else "in the lab's tasks"
        said = f"each technique at the cheapest setting that keeps {quality.share:.0%} of the answers {task}"
    if objective.milder:
        said += ", and halfway from there to the setting that turns it off"
    if given:
        said += f"; {', '.join(given)} at the settings given"
    return said


def _barred(
    kb: KnowledgeBase, technique: Technique, baseline: Estimate, objective: Objective, *, asked: bool
) -> str | None:
    """Why a technique is not searched; `asked`: it was asked for by name or by a query."""
    order = [term.id for term in kb.atlas.terms("training")]
    if objective.training and order.index(technique.training) > order.index(objective.training):
        return f"needs training: {technique.training}"
    if technique.reference is None and not (objective.described or asked):
        return "only described, no reference runs it; --described searches it too"
    if risk(technique) > RISKS.index(objective.risk):
        return f"its risk is `{RISKS[risk(technique)]}`"
    return problem(technique, baseline.model, baseline.workload)


def _matches(kb: KnowledgeBase, option: str, query: str) -> set[str]:
    """The techniques that a query finds.

    Raises:
        AtlasError: it cannot be answered; the message is one line.
    """
    try:
        return {*kb.query(query).ids}
    except AtlasError as error:
        raise AtlasError(f"{option} {query}: {str(error).splitlines()[0]}") from None
