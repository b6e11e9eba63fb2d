"""What a worker process is asked to do, and what it answers; both travel as JSON."""

from __future__ import annotations

from pydantic import Field

from lvlm_atlas.schema.measurement import SmokeResult, Workload
from lvlm_atlas.schema.record import Record, Setting


class Job(Record):
    """The smoke test of one technique."""

    technique: str
    """Id of the technique."""
    reference: str
    """Its reference, as `module:Class`."""
    neutral: dict[str, Setting] | None
    """The setting that changes nothing, if there is one."""
    spared: dict[str, str] = Field(default_factory=dict)
    """Checks that the technique is not held to, with the reason; see `lvlm_atlas.lab.claims`."""
    trials: tuple[dict[str, Setting], ...] = Field(min_length=1)
    """The settings to run."""
    workload: Workload
    """The model and the request."""
    device: str
    """`cpu` or `cuda`."""


class Answer(Record):
    """What came of a job."""

    results: tuple[SmokeResult, ...]
    """One a trial."""
