"""Runs the smoke tests: a process a technique, bounded in time and memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lvlm_atlas.lab.claims import spared
from lvlm_atlas.lab.isolation import Bounds, in_processes
from lvlm_atlas.lab.job import Answer, Job
from lvlm_atlas.lab.reference import reference_of
from lvlm_atlas.schema.measurement import SmokeResult, Workload
from lvlm_atlas.schema.technique import Technique

WORKLOAD = Workload(preset="tiny", dtype="float32", seed=0, frames=6, text_tokens=16, output_tokens=12)
"""What the smoke tests run on: six frames of 64 patches, 16 text tokens, 12 tokens out."""


def jobs_for(techniques: Iterable[Technique], workload: Workload, device: str) -> list[Job]:
    """A job for each technique.

    Raises:
        AtlasError: one of them has no reference, or the package of a reference is not installed.
    """
    return [
        Job(
            technique=technique.id,
            reference=reference_of(technique),
            neutral=technique.neutral,
            spared=spared(technique),
            trials=technique.trials,
            workload=workload,
            device=device,
        )
        for technique in techniques
    ]


def smoke(
    jobs: Iterable[Job], *, device: str = "cpu", bounds: Bounds | None = None, workers: int | None = None
) -> Iterator[Answer]:
    """Answers in the order in which the jobs end. Leaving the iteration stops what still runs."""
    return in_processes(
        jobs, "lvlm_atlas.lab.trials", Answer, _failed, _about, device=device, bounds=bounds, workers=workers
    )


def _about(answer: Answer, job: Job) -> bool:
    return {result.technique for result in answer.results} == {job.technique}


def _failed(job: Job, problem: str) -> Answer:
    return Answer(
        results=tuple(
            SmokeResult(technique=job.technique, setting=setting, passed=(), failed={"runs": problem})
            for setting in job.trials
        )
    )
