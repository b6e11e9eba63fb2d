"""The trials of one technique's smoke test; a worker process carries them out."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from lvlm_atlas.lab.built import built, forget
from lvlm_atlas.lab.checks import CHECKS, TOLERANCE, Runs
from lvlm_atlas.lab.job import Answer, Job
from lvlm_atlas.reference.lvlm import LVLM, Request, Result, random_request
from lvlm_atlas.schema.measurement import Counts, SmokeResult, Workload
from lvlm_atlas.schema.record import Setting


def prepare(job: Job) -> None:
    """Make the model and the run without a technique, which all jobs on the workload share."""
    _baseline(job.workload, job.device)


def carry_out(job: Job) -> Answer:
    """Run every trial of the job and check it."""
    lvlm, request, baseline = _baseline(job.workload, job.device)

    def run(setting: dict[str, Setting]) -> Result:
        return lvlm.run(request, [built(job.reference, setting, lvlm)])

    return Answer(results=tuple(_trial(job, setting, lvlm, request, baseline, run) for setting in job.trials))


def reset() -> None:
    """Forget what `prepare` made."""
    _baseline.cache_clear()
    forget()


@cache
def _baseline(workload: Workload, device: str) -> tuple[LVLM, Request, Result]:
    dtype: torch.dtype = getattr(torch, workload.dtype)
    lvlm = LVLM.random(workload.preset, seed=workload.seed, dtype=dtype, device=device)
    request = random_request(
        lvlm.config,
        frames=workload.frames,
        text_tokens=workload.text_tokens,
        max_new_tokens=workload.output_tokens,
        seed=workload.seed,
    )
    return lvlm, request, lvlm.run(request)


def _trial(
    job: Job, setting: dict[str, Setting], lvlm: LVLM, request: Request, baseline: Result, run: Any
) -> SmokeResult:
    try:
        runs = Runs(
            request,
            lvlm.config.text.vocab_size,
            TOLERANCE[lvlm.dtype],
            baseline,
            run(setting),
            run(setting),
            None if job.neutral is None else run(job.neutral),
        )
    except Exception as error:  # noqa: BLE001 - whatever a reference raises is its result
        return SmokeResult(
            technique=job.technique, setting=setting, passed=(), failed={"runs": f"{type(error).__name__}: {error}"}
        )
    outcomes = {name: check(runs) for name, check in CHECKS.items() if name not in job.spared}
    return SmokeResult(
        technique=job.technique,
        setting=setting,
        passed=("runs", *(name for name, problem in outcomes.items() if problem is None)),
        failed={name: problem for name, problem in outcomes.items() if problem is not None},
        skipped=job.spared,
        counts=_counts(runs.result),
        baseline=_counts(baseline),
    )


def _counts(result: Result) -> Counts:
    trace = result.trace
    return Counts(
        encoder_tokens=tuple(trace.encoder_tokens),
        llm_tokens=tuple(trace.llm_tokens),
        score_entries=tuple(trace.score_entries),
        kv_entries=tuple(trace.kv_entries),
        kv_byte=sum(trace.kv_byte),
        kv_settled_entries=tuple(trace.kv_settled_entries),
        accepted_lengths=tuple(trace.accepted_lengths) if any(trace.draft_nodes) else (),
        target_passes=trace.target_passes,
        output_tokens=trace.output_tokens,
    )
