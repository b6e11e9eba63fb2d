"""Runs every trial of two techniques together, in both orders; a worker process does it. Finished pairs are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pydantic import ValidationError

import lvlm_atlas
from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.lab import observation
from lvlm_atlas.lab.changes import module_of
from lvlm_atlas.lab.stacks import PairRuns, jobs_for, runs_of
from lvlm_atlas.lab.verification import StackJob
from lvlm_atlas.schema.record import Record
from lvlm_atlas.schema.technique import Technique

RUNS_ON = ("fault.py", "lab", "reference", "roofline", "schema", "specs")
"""The code that a pair's result depends on, beside the modules of the two."""


class PairJob(Record):
    """Both orders of a pair."""

    key: str
    """Digest of all that its result depends on."""
    jobs: tuple[StackJob, ...]


class PairAnswer(Record):
    """What came of a pair."""

    key: str
    runs: PairRuns
    lost: bool = False
    """Whether its process gave no answer; such an answer is not kept."""


def pair_job(atlas: Atlas, one: Technique, two: Technique, dtype: str, device: str) -> PairJob:
    """The runs of a pair in both orders, with the digest under which their result is kept."""
    jobs = jobs_for(atlas, one, two, dtype, device)
    digest = hashlib.sha256(_code().encode())
    for job in jobs:
        digest.update(job.model_dump_json().encode())
    for technique in (one, two):
        module = module_of(technique)
        digest.update(module.read_bytes() if module else b"")
    return PairJob(key=digest.hexdigest(), jobs=jobs)


def prepare(job: PairJob) -> None:
    """See `lvlm_atlas.lab.worker`."""
    observation.prepare(job.jobs[0])


def carry_out(job: PairJob) -> PairAnswer:
    """Run a pair in both orders."""
    return PairAnswer(key=job.key, runs=runs_of([observation.carry_out(each) for each in job.jobs]))


def reset() -> None:
    """See `lvlm_atlas.lab.worker`."""
    observation.reset()


def about(answer: PairAnswer, job: PairJob) -> bool:
    """Whether an answer is one to a job."""
    return answer.key == job.key


def lost(job: PairJob, problem: str) -> PairAnswer:
    """The answer of a job whose process gave none."""
    one, two = (each.technique.id for each in job.jobs[0].items)
    return PairAnswer(key=job.key, runs=PairRuns(pair=(one, two), faults=(f"{one} + {two}: {problem}",)), lost=True)


class Kept:
    """Answers kept in a file, a line each, so that an interrupted run goes on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "pairs.jsonl"
        self.answers = {answer.key: answer for answer in self._read()}

    def add(self, answer: PairAnswer) -> None:
        """Keep an answer, in the file too unless it was lost."""
        self.answers[answer.key] = answer
        if answer.lost:
            return
        with self.file.open("a", encoding="utf-8") as file:
            file.write(answer.model_dump_json() + "\n")

    def _read(self) -> Iterator[PairAnswer]:
        """The whole lines; the last one may be torn, and then gets an end of its own."""
        if not self.file.is_file():
            return
        text = self.file.read_text("utf-8")
        if text and not text.endswith("\n"):
            with self.file.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.splitlines():
            try:
                yield PairAnswer.model_validate_json(line)
            except ValidationError:
                continue


@cache
def _code() -> str:
    """Digest of the code that runs and judges pairs, without the techniques."""
    digest, package = hashlib.sha256(), Path(lvlm_atlas.__file__).parent
    for name in RUNS_ON:
        files = sorted((package / name).rglob("*.py")) if (package / name).is_dir() else [package / name]
        for file in files:
            if "techniques" not in file.parts:
                digest.update(file.read_bytes())
    return digest.hexdigest()
