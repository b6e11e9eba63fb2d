"""Carries out jobs in processes of their own, bounded in time and memory, so that none takes another down."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeVar

import psutil
from pydantic import ValidationError

from lvlm_atlas.schema.record import Record

Job = TypeVar("Job", bound=Record)
Answer = TypeVar("Answer", bound=Record)


@dataclass(frozen=True)
class Bounds:
    """What one job may take."""

    time_s: float = 120.0
    memory_byte: int = 4 * 2**30
    """Resident memory of the process and its children, on the host."""


def in_processes(
    jobs: Iterable[Job],
    task: str,
    answer: type[Answer],
    otherwise: Callable[[Job, str], Answer],
    *,
    bounds: Bounds | None = None,
    workers: int | None = None,
) -> Iterator[Answer]:
    """Answers in the order in which the jobs end. Leaving the iteration stops what still runs.

    Args:
        jobs: what to carry out.
        task: the function that makes an answer of a job, as `module:function`.
        answer: the type of its answers.
        otherwise: the answer of a job whose process gave none, told what became of it.
        bounds: what a job may take.
        workers: processes at a time.
    """
    limits, stopping = bounds or Bounds(), Event()

    def one(job: Job) -> Answer:
        given = _in_process(job, task, answer, limits, stopping)
        return otherwise(job, given) if isinstance(given, str) else given

    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        waiting = [pool.submit(one, job) for job in jobs]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            stopping.set()
            for future in waiting:
                future.cancel()


def _in_process(job: Record, task: str, answer: type[Answer], bounds: Bounds, stopping: Event) -> Answer | str:
    """The answer of a worker process, or what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        job_file, answer_file, log = (Path(folder) / name for name in ("job.json", "answer.json", "log.txt"))
        job_file.write_text(job.model_dump_json(by_alias=True), encoding="utf-8")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "lvlm_atlas.lab.worker", task, str(job_file), str(answer_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                problem = _watch(process, bounds, stopping)
            finally:
                process.kill()
                process.wait()
        if problem is not None:
            return problem
        try:
            return answer.model_validate_json(answer_file.read_bytes())
        except (OSError, ValidationError):
            said = log.read_text("utf-8", "replace").strip().splitlines()
            return f"the process ended with {process.returncode}: {said[-1] if said else 'it said nothing'}"


def _watch(process: subprocess.Popen[bytes], bounds: Bounds, stopping: Event) -> str | None:
    """Wait for the end; None, or which bound was broken."""
    end = time.monotonic() + bounds.time_s
    while process.poll() is None:
        if time.monotonic() > end:
            return f"took longer than {bounds.time_s:g} s and was stopped"
        used = _memory_byte(process.pid)
        if used > bounds.memory_byte:
            return f"took {used / 2**20:.0f} MiB, more than {bounds.memory_byte / 2**20:.0f}, and was stopped"
        if stopping.wait(0.02):
            return "was stopped"
    return None


def _memory_byte(pid: int) -> int:
    """Resident memory of a process and its children; 0 once it is gone."""
    try:
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0
