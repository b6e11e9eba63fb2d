"""Carries out jobs in processes of their own, bounded in time and memory, so that none takes another down."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Generic, TextIO, TypeVar, cast

from pydantic import ValidationError

from lvlm_atlas.schema.record import Record

Job = TypeVar("Job", bound=Record)
Answer = TypeVar("Answer", bound=Record)
Numbered = tuple[int, Job]
Ended = tuple[int, Job, str | None]
"""A job's number, the job, and what became of its process where that gave no answer."""

SUPERVISOR_LOST = "it ended the process that watches over the workers"


@dataclass(frozen=True)
class Bounds:
    """What one job may take."""

    time_s: float = 120.0
    """Wall time, counted from when its worker has started and prepared it."""
    memory_byte: int = 4 * 2**30
    """Resident memory of the process and its children, on the host."""
    output_byte: int = 64 * 2**20
    """Largest file that it writes, what it prints and its answer among them."""


def in_processes(
    jobs: Iterable[Job],
    task: str,
    answer: type[Answer],
    otherwise: Callable[[Job, str], Answer],
    about: Callable[[Answer, Job], bool],
    *,
    device: str = "cpu",
    bounds: Bounds | None = None,
    workers: int | None = None,
    fork: bool | None = None,
) -> Iterator[Answer]:
    """Answers in the order in which the jobs end. Leaving the iteration stops what still runs.

    Args:
        jobs: what to carry out; taken one by one as workers become free.
        task: a module with `prepare(job)`, `carry_out(job)` and `reset()`, see `lvlm_atlas.lab.worker`.
        answer: the type of its answers.
        otherwise: the answer to a job whose process gave none; its second argument says what became of the process.
        about: whether an answer is one to a job; another is not believed.
        device: `cpu` or `cuda`.
        bounds: what a job may take.
        workers: processes at a time; default: one a core and at most four, and one on a GPU.
        fork: whether each job runs in a fork of one process that has imported and prepared the task, or workers
            start afresh and take several jobs each; default: fork where it is safe, on Linux and on the CPU.
    """
    if fork is None:
        fork = device == "cpu" and sys.platform == "linux"
    count = workers or (min(4, os.cpu_count() or 1) if device == "cpu" else 1)
    with tempfile.TemporaryDirectory() as folder:
        pool = _Pool[Job](task, Path(folder), bounds or Bounds(), fork=fork)
        for number, job, problem in pool.carry_out(jobs, count):
            if problem is not None:
                yield otherwise(job, problem)
                continue
            file = Path(folder) / f"{number}.json"
            try:
                token, _, text = file.read_bytes().partition(b"\n")
                result = answer.model_validate_json(text)
            except (OSError, ValidationError) as error:
                result = otherwise(job, f"its answer cannot be read: {' '.join(str(error).split())}")
            else:
                if token.decode("utf-8", "replace") != pool.token(number) or not about(result, job):
                    result = otherwise(job, "somebody else answered in its name")
            file.unlink(missing_ok=True)
            yield result


@dataclass(frozen=True)
class _Pool(Generic[Job]):
    task: str
    folder: Path
    bounds: Bounds
    fork: bool
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(16))

    def token(self, number: int) -> str:
        """What the answer to a job begins with: its own worker knows it, and no other."""
        return hmac.digest(self.secret, str(number).encode(), "sha256").hex()

    def carry_out(self, jobs: Iterable[Job], workers: int) -> Generator[Ended[Job], None, None]:
        """Each job with its number, and what became of its process where that gave no answer.

        A job may end the supervisor itself (a signal to its parent). Those then in flight are tried again, each
        alone, so that only the one that does it is blamed.
        """
        source = enumerate(jobs)
        while (first := next(source, None)) is not None:
            with closing(self._supervised(chain([first], source), workers)) as ended:
                for number, job, problem in ended:
                    if problem == SUPERVISOR_LOST:
                        with closing(self._supervised(iter([(number, job)]), 1)) as alone:
                            yield from alone
                    else:
                        yield number, job, problem

    def _supervised(self, source: Iterator[Numbered[Job]], workers: int) -> Generator[Ended[Job], None, None]:
        """Jobs until the source is empty or the supervisor is lost; those in flight then have `SUPERVISOR_LOST`."""
        log = self.folder / "supervisor.log"
        options = [self.task, self.folder, workers, self.bounds.time_s, self.bounds.memory_byte]
        options += [self.bounds.output_byte, int(self.fork)]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "lvlm_atlas.lab.supervisor", *map(str, options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # several workers run side by side
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for us: it ends when we close its standard input
            )
        send, reports = cast("TextIO", process.stdin), cast("TextIO", process.stdout)
        in_flight: dict[int, Job] = {}
        ready = False
        try:
            self._send(send, in_flight, islice(source, workers))
            while in_flight and (line := reports.readline()):
                message = json.loads(line)
                if message == "ready":
                    ready = True
                    continue
                number, problem = message
                yield number, in_flight.pop(number), problem
                self._send(send, in_flight, islice(source, 1))
            lost = SUPERVISOR_LOST if ready else f"no worker could start: {last_line(log)}"
            for number, job in in_flight.items():
                yield number, job, lost
        finally:
            _end(process)
            reports.close()

    def _send(self, lines: TextIO, in_flight: dict[int, Job], jobs: Iterable[Numbered[Job]]) -> None:
        for number, job in jobs:
            in_flight[number] = job
            with contextlib.suppress(BrokenPipeError):  # it is lost: the next read says so
                lines.write(f"{number} {self.token(number)} {job.model_dump_json(by_alias=True)}\n")
                lines.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """Close the supervisor's standard input, at which it kills its workers and ends."""
    with contextlib.suppress(BrokenPipeError):
        cast("TextIO", process.stdin).close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:  # it still imports the task, and has no worker yet
        process.kill()
        process.wait()


def last_line(log: Path) -> str:
    """The last line that a process wrote."""
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
