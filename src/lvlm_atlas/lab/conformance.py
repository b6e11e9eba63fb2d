"""Whether references do what their entries declare: jobs for the runs, and what the answers amount to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.lab.reference import reference_of
from lvlm_atlas.lab.settings import RUNS, SHAPES, authored, generated, shapes_for
from lvlm_atlas.lab.verification import (
    COUNTED_COSTS,
    Item,
    Outcome,
    Part,
    Plan,
    Row,
    StackAnswer,
    StackJob,
    counted,
)
from lvlm_atlas.schema import wording
from lvlm_atlas.schema.effect import COSTS
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.wording import as_text, change, cost, layers
from lvlm_atlas.specs.technique import effect_places


@dataclass(frozen=True)
class Line:
    """A quantity of one technique over all its runs."""

    technique: str
    quantity: str
    formulas: tuple[str, ...]
    """What the entry declares about it; empty where it should stay unchanged."""
    runs: int
    held: int
    """Runs in which all that is counted of it was as declared."""
    bites: int
    """Runs that the declaration is needed to explain."""
    mismatches: tuple[tuple[Outcome, Row], ...]


@dataclass(frozen=True)
class Report:
    """What verification found about one technique."""

    technique: str
    lines: tuple[Line, ...]
    faults: tuple[str, ...]
    """What else is wrong: runs that crash, settings that never run, declarations that never bite."""
    runs: int
    """Runs that were tried."""
    refused: int
    """Of these, the runs that the reference refused with a reason."""
    refusal: str | None
    """The reason given most often."""

    @property
    def holds(self) -> bool:
        """Whether everything is as declared."""
        return not self.faults and not any(line.mismatches for line in self.lines)


def item(atlas: Atlas, technique: Technique) -> Item:
    """A technique with the places of its effects.

    Raises:
        AtlasError: it has no reference, or the package of its reference is not installed.
    """
    reference_of(technique)
    return Item(technique=technique, places=effect_places(atlas, technique))


def job_for(atlas: Atlas, technique: Technique, dtype: str, device: str) -> StackJob:
    """Every setting that the entry names on requests to every model, and each generated one on one request."""
    plans = [
        Plan(settings=(setting,), shape=shape)
        for number, setting in enumerate(authored(technique))
        for shape in shapes_for(number)
    ]
    plans += [
        Plan(settings=(setting,), shape=SHAPES[number % len(SHAPES)], spares=tuple((spare,) for spare in spares))
        for number, (setting, *spares) in enumerate(generated(technique, max(0, RUNS - len(plans))))
    ]
    return StackJob.model_validate(
        {"items": (item(atlas, technique),), "plans": tuple(plans), "dtype": dtype, "device": device}
    )


def report(answer: StackAnswer) -> Report:
    """What the runs of one technique amount to."""
    technique, outcomes = answer.job.items[0].technique, answer.outcomes
    quantities = dict.fromkeys(row.quantity for outcome in outcomes for row in outcome.rows)
    lines = tuple(_line(technique, quantity, outcomes) for quantity in quantities)
    reasons = Counter(outcome.refused for outcome in outcomes if outcome.refused is not None)
    return Report(
        technique.id,
        lines,
        tuple(_faults(answer, technique)),
        runs=len(outcomes),
        refused=reasons.total(),
        refusal=next((reason for reason, _ in reasons.most_common(1)), None),
    )


def _line(technique: Technique, quantity: str, outcomes: Iterable[Outcome]) -> Line:
    parts, formulas = _declarations(technique, quantity)
    ran = [outcome for outcome in outcomes if outcome.rows]
    mismatches = tuple(
        (outcome, row) for outcome in ran for row in outcome.rows if row.quantity == quantity and not row.holds
    )
    return Line(
        technique.id,
        quantity,
        tuple(formulas),
        runs=len(ran),
        held=len(ran) - len({id(outcome) for outcome, _ in mismatches}),
        bites=sum(any(part in outcome.bites for part in parts) for outcome in ran),
        mismatches=mismatches,
    )


def _declarations(technique: Technique, quantity: str) -> tuple[list[Part], list[str]]:
    """What a technique declares about a quantity: which declarations, and their formulas."""
    parts, formulas = [], []
    for index, effect in enumerate(technique.effects):
        if effect.quantity == quantity:
            parts.append(Part(item=0, kind="effects", index=index))
            formulas.append(as_text((*change(effect), " ", *layers(effect))).strip())
    for index, overhead in enumerate(technique.overheads):
        if quantity == "overhead" and counted(overhead):
            parts.append(Part(item=0, kind="overheads", index=index))
            uncounted = {name: None for name in COSTS if name not in COUNTED_COSTS}
            formulas.append(as_text(cost(overhead.model_copy(update=uncounted))))
    return parts, formulas


def _faults(answer: StackAnswer, technique: Technique) -> Iterator[str]:
    if answer.problem is not None:
        yield answer.problem
        return
    for outcome in answer.outcomes:
        if outcome.crashed:
            yield f"{shown(outcome.plan)}: {outcome.crashed}"
    for setting in (*technique.trials, *([] if technique.neutral is None else [technique.neutral])):
        tried = [outcome for outcome in answer.outcomes if outcome.plan.settings == (setting,)]
        if all(outcome.refused for outcome in tried):
            yield f"{setting_shown(setting)}: never runs; {tried[0].refused}"
    bitten = {(part.kind, part.index) for outcome in answer.outcomes for part in outcome.bites}
    for index, effect in enumerate(technique.effects):
        if ("effects", index) not in bitten:
            yield f"effects[{index}] ({effect.quantity}) is never exercised: every run is explained without it"
    for index, overhead in enumerate(technique.overheads):
        if counted(overhead) and ("overheads", index) not in bitten:
            costs = ", ".join(counted(overhead))
            yield f"overheads[{index}] ({costs}) is never exercised: every run is explained without it"


def shown(plan: Plan) -> str:
    """A plan in words."""
    return f"{' + '.join(map(setting_shown, plan.settings))} on {plan.shape}"


def setting_shown(setting: Mapping[str, Setting]) -> str:
    """A setting in words."""
    return ", ".join(f"{name}={wording.setting(value)}" for name, value in setting.items()) or "defaults"
