"""How much of a published list the catalog holds, and where the two differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.schema.survey_list import Section, SurveyList, Work

State = Literal["running", "described", "system", "missing"]
STATES: Mapping[State, str] = {
    "running": "has an entry and a reference that runs",
    "described": "has an entry; nothing runs it yet",
    "system": "is a serving system or a feature of an engine",
    "missing": "has no entry yet",
}
"""What can be said of a work, best first."""


@dataclass(frozen=True, kw_only=True)
class Covered:
    """A row of a list, as far as the catalog has it."""

    section: Section
    work: Work
    state: State
    stage: str | None
    """The stage of its entry, where that is not the list's."""
    training_free: bool | None
    """What its entry says, where the list says otherwise."""

    @property
    def differences(self) -> tuple[str, ...]:
        """Where the entry and the list differ, as sentences."""
        said = []
        if self.stage:
            said.append(f"filed under {self.stage} here, under {self.section.stage} there")
        if self.training_free is not None:
            free, trained = ("here", "there") if self.training_free else ("there", "here")
            said.append(f"training-free {free}, trained or calibrated {trained}")
        return tuple(said)


def coverage(atlas: Atlas, list_: SurveyList) -> tuple[Covered, ...]:
    """The rows of a list in its order, each with its state in the catalog.

    A technique that appears in two sections has a row in each.
    """
    return tuple(_covered(atlas, section, work) for section in list_.sections for work in section.works)


def counts(rows: tuple[Covered, ...]) -> dict[State, int]:
    """How many works, each counted once, are in each state; states that none is in are left out."""
    counted = Counter({row.work.technique: row.state for row in rows}.values())
    return {state: counted[state] for state in STATES if counted[state]}


def _covered(atlas: Atlas, section: Section, work: Work) -> Covered:
    technique = atlas.techniques.get(work.technique)
    if technique is None:
        state: State = "system" if work.technique in atlas.systems else "missing"
        return Covered(section=section, work=work, state=state, stage=None, training_free=None)
    free = technique.training == "none"
    return Covered(
        section=section, work=work, state="running" if technique.reference else "described",
        stage=technique.stage if technique.stage != section.stage else None,
        training_free=free if work.training_free not in (None, free) else None,
    )  # fmt: skip
