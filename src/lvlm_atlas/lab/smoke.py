"""Runs the smoke tests: a process a technique, bounded in time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import ValidationError

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.job import Answer, Job
from lvlm_atlas.schema.measurement import SmokeResult, Workload
from lvlm_atlas.schema.technique import Technique

WORKLOAD = Workload(preset="tiny", dtype="float32", seed=0, frames=6, text_tokens=16, output_tokens=12)
"""What the smoke tests run on: six frames of 64 patches, 16 text tokens, 12 tokens out."""


@dataclass(frozen=True)
class Bounds:
    """What one technique may take."""

    time_s: float = 120.0
    memory_byte: int = 4 * 2**30
    """Resident memory of the process and its children, on the host."""


def jobs_for(techniques: Iterable[Technique], workload: Workload, device: str) -> list[Job]:
    """A job for each technique.

    Raises:
        AtlasError: one of them has no reference.
    """
    jobs = []
    for technique in techniques:
        if technique.reference is None or technique.neutral is None:
            raise AtlasError(f"{technique.id} is only described, it has no reference to run; leave it out")
        jobs.append(
            Job(
                technique=technique.id,
                reference=technique.reference,
                neutral=technique.neutral,
                trials=technique.trials,
                workload=workload,
                device=device,
            )
        )
    return jobs


def smoke(jobs: Iterable[Job], *, bounds: Bounds | None = None, workers: int | None = None) -> Iterator[Answer]:
    """Answers in the order in which the jobs end. Leaving the iteration stops what still runs."""
    limits, workers = bounds or Bounds(), workers or min(4, os.cpu_count() or 1)
    running: set[subprocess.Popen[bytes]] = set()
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(_in_process, job, limits, running) for job in jobs]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            for future in waiting:
                future.cancel()
            for process in list(running):
                process.kill()


def _in_process(job: Job, bounds: Bounds, running: set[subprocess.Popen[bytes]]) -> Answer:
    """The answer of a worker process, or a failed one that says what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        job_file, answer_file, log = (Path(folder) / name for name in ("job.json", "answer.json", "log.txt"))
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "lvlm_atlas.lab.worker", str(job_file), str(answer_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            running.add(process)
            try:
                problem = _watch(process, bounds)
            finally:
                process.kill()
                process.wait()
                running.discard(process)
        if problem is None:
            try:
                return Answer.model_validate_json(answer_file.read_bytes())
            except (OSError, ValidationError):
                said = log.read_text("utf-8", "replace").strip().splitlines()
                problem = f"the process ended with {process.returncode}: {said[-1] if said else 'it said nothing'}"
    return Answer(
        results=tuple(
            SmokeResult(technique=job.technique, setting=setting, passed=(), failed={"runs": problem})
            for setting in job.trials
        )
    )


def _watch(process: subprocess.Popen[bytes], bounds: Bounds) -> str | None:
    """Wait for the end; None, or which bound was broken."""
    end = time.monotonic() + bounds.time_s
    while process.poll() is None:
        if time.monotonic() > end:
            return f"took longer than {bounds.time_s:g} s and was stopped"
        used = _memory_byte(process.pid)
        if used > bounds.memory_byte:
            return f"took {used / 2**20:.0f} MiB, more than {bounds.memory_byte / 2**20:.0f}, and was stopped"
        time.sleep(0.02)
    return None


def _memory_byte(pid: int) -> int:
    """Resident memory of a process and its children; 0 once it is gone."""
    try:
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0
