"""The trials of one technique's smoke test; a worker process carries them out."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from typing import Any

import torch

from lvlm_atlas.lab.checks import CHECKS, NEUTRAL, TOLERANCE, Runs
from lvlm_atlas.lab.job import Answer, Job
from lvlm_atlas.reference.lvlm import LVLM, Result, random_request
from lvlm_atlas.schema.measurement import Counts, SmokeResult
from lvlm_atlas.schema.record import Setting


def carry_out(job: Job) -> Answer:
    """Run every trial of the job and check it."""
    work = job.workload
    dtype: torch.dtype = getattr(torch, work.dtype)
    lvlm = LVLM.random(work.preset, seed=work.seed, dtype=dtype, device=job.device)
    request = random_request(
        lvlm.config,
        frames=work.frames,
        text_tokens=work.text_tokens,
        max_new_tokens=work.output_tokens,
        seed=work.seed,
    )
    baseline = lvlm.run(request)

    def run(setting: dict[str, Setting]) -> Result:
        return lvlm.run(request, _stack(job.reference, setting))

    return Answer(results=tuple(_trial(job, setting, lvlm, request, baseline, run) for setting in job.trials))


def _trial(job: Job, setting: dict[str, Setting], lvlm: LVLM, request: Any, baseline: Result, run: Any) -> SmokeResult:
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
    skipped = {NEUTRAL: job.no_neutral or "no neutral setting"} if runs.neutral is None else {}
    seen = {name: check(runs) for name, check in CHECKS.items() if name not in skipped}
    return SmokeResult(
        technique=job.technique,
        setting=setting,
        passed=("runs", *(name for name, problem in seen.items() if problem is None)),
        failed={name: problem for name, problem in seen.items() if problem is not None},
        skipped=skipped,
        counts=_counts(runs.result),
        baseline=_counts(baseline),
    )


def _stack(reference: str, setting: dict[str, Setting]) -> Sequence[Any]:
    return [pkgutil.resolve_name(reference)(**setting)]


def _counts(result: Result) -> Counts:
    trace = result.trace
    return Counts(
        encoder_tokens=tuple(trace.encoder_tokens),
        llm_tokens=tuple(trace.llm_tokens),
        score_entries=tuple(trace.score_entries),
        kv_entries=tuple(trace.kv_entries),
        kv_byte=sum(trace.kv_byte),
        target_passes=trace.target_passes,
        output_tokens=trace.output_tokens,
    )
