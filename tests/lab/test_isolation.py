"""Jobs in processes of their own: whatever one does, it fails alone and with its reason, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from importlib import import_module
from typing import Any

import psutil
import pytest

from lvlm_atlas.lab.isolation import Bounds, in_processes

LINUX = sys.platform == "linux"
BOUNDS = Bounds(time_s=4, memory_byte=2**29)
TASK = """
    import os, signal, subprocess, sys, time
    from pathlib import Path
    from lvlm_atlas.schema.record import Record

    class Renamed(Exception): pass
    class Job(Record):
        name: str

    class Answer(Record):
        name: str
        problem: str | None

    def prepare(job: Job) -> None:
        if job.name == "PreparesLong": time.sleep(5)

    def reset() -> None:
        pass

    def carry_out(job: Job) -> Answer:
        try:
            globals()[job.name]()
        except Renamed:
            return Answer(name="Passes", problem="forged")
        except Exception as error:
            return Answer(name=job.name, problem=f"{type(error).__name__}: {error}")
        return Answer(name=job.name, problem=None)

    def Passes(): pass
    def PreparesLong(): pass
    def Raises(): raise RuntimeError("no such luck")
    def Exits(): os._exit(7)
    def Loops():
        while True: pass
    def Grows():
        hoard = bytearray(2**30)
        for at in range(0, len(hoard), 4096): hoard[at] = 1
        time.sleep(600)
    def GrowsInAChild():
        subprocess.run([sys.executable, "-c", "hoard = b'1' * 2**30; input()"], stdin=subprocess.PIPE)
    def Prints(): print("{not json}"); sys.exit("so there")
    def ClosesOutput(): os.close(1); os.close(2); raise RuntimeError("unheard")
    def ClosesAll(): os.closerange(3, 4096); time.sleep(600)
    def Stops(): os.kill(os.getpid(), signal.SIGSTOP)
    def KillsItsGroup(): os.killpg(0, signal.SIGKILL)
    def Forks(): os.fork(); raise RuntimeError("twice")
    def Daemon():
        if not os.fork():
            os.setsid()
            if not os.fork(): os.execlp("sleep", "sleep", "987654")
            os._exit(0)
        os.wait()
    def GrowsInADaemon():
        Daemon()
        if not os.fork():
            os.setsid()
            if os.fork(): os._exit(0)
            Grows()
        os.wait(); time.sleep(600)
    def ForksMany():
        for _ in range(20):
            if not os.fork(): os.setsid(); os.execlp("sleep", "sleep", "987654")
    def Floods():
        while True: os.write(1, b"x" * 2**20)
    def IgnoresSignals():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM); Loops()
    def Forges():
        '''Answers in the name of every job, wherever answers may lie.'''
        for number in range(64):
            (Path(sys.argv[2]) / f"{number}.json").write_text('{"name": "Passes", "problem": "no"}')
        raise RuntimeError("forged")
    def Misnames(): raise Renamed
    def KillsItsParent(): os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)
"""
SAID = {
    "Raises": "RuntimeError: no such luck",
    "Exits": "the process ended with 7: it said nothing",
    "Loops": "took longer than 4 s and was stopped",
    "Grows": r"took \d+ MiB, more than 512, and was stopped",
    "GrowsInAChild": r"took \d+ MiB, more than 512, and was stopped",
    "Prints": "the process ended with 1: so there",
    "ClosesOutput": "RuntimeError: unheard",
    "ClosesAll": "took longer than 4 s and was stopped|the process ended with 1: it said nothing",
    "Stops": "took longer than 4 s and was stopped",
    "KillsItsGroup": "the process ended with -9: it said nothing",
    "Forks": "RuntimeError: twice",
    "Missing": "KeyError: 'Missing'",
    "GrowsInADaemon": r"took longer than 4 s and was stopped",
    "Floods": r"OSError: \[Errno 27\] File too large",
    "IgnoresSignals": "took longer than 4 s and was stopped",
    "Forges": "RuntimeError: forged",
    "Misnames": "somebody else answered in its name",
}


@pytest.fixture(scope="module", autouse=True)
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A task whose jobs misbehave, importable here and by the workers."""
    folder = tmp_path_factory.mktemp("task")
    (folder / "bad_task.py").write_text(textwrap.dedent(TASK))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
        yield


def answers(names: Iterable[str], *, bounds: Bounds = BOUNDS, fork: bool | None = None) -> Iterator[Any]:
    """The answers of jobs of these names, two at a time."""
    task = import_module("bad_task")
    return in_processes(
        (task.Job(name=name) for name in names), "bad_task", task.Answer,
        lambda job, problem: task.Answer(name=job.name, problem=problem),
        lambda answer, job: answer.name == job.name, bounds=bounds, workers=2, fork=fork,
    )  # fmt: skip


def problems(names: Iterable[str], **options: Any) -> dict[str, str | None]:
    return {answer.name: answer.problem for answer in answers(names, **options)}


@pytest.fixture(scope="module", params=[True, False], ids=["forked", "afresh"])
def ended(request: pytest.FixtureRequest) -> dict[str, str | None]:
    """What came of all of them and of a sound one in one run."""
    if request.param and not LINUX:
        pytest.skip("fork is not safe here")
    return problems([*SAID, "Passes"], fork=request.param)


@pytest.mark.parametrize("name", SAID)
def test_a_job_that_misbehaves_fails_alone_and_with_its_reason(ended: dict[str, str | None], name: str) -> None:
    assert re.fullmatch(SAID[name], str(ended[name]))


def test_a_sound_job_among_them_has_its_own_answer(ended: dict[str, str | None]) -> None:
    assert ended["Passes"] is None
    assert set(ended) == {*SAID, "Passes"}


@pytest.mark.parametrize("fork", [False, pytest.param(True, marks=pytest.mark.skipif(not LINUX, reason="not safe"))])
def test_more_jobs_than_workers_are_all_answered(fork: bool) -> None:
    names = [answer.name for answer in answers(["Passes"] * 25, fork=fork)]
    assert names == ["Passes"] * 25


def test_jobs_are_taken_as_workers_become_free() -> None:
    taken: list[int] = []
    jobs = (taken.append(number) or "Passes" for number in range(100))
    with closing(answers(jobs)) as found:
        next(found)
    assert len(taken) <= 3


def test_one_that_ends_the_supervisor_is_blamed_and_the_others_are_run_again() -> None:
    found = problems(["KillsItsParent", "Raises", "Passes"])
    assert found["KillsItsParent"] == "it ended the process that watches over the workers"
    assert re.fullmatch(SAID["Raises"], str(found["Raises"]))
    assert found["Passes"] is None


def test_the_clock_of_a_job_starts_when_it_is_prepared() -> None:
    assert problems(["PreparesLong"], fork=False) == {"PreparesLong": None}


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHOME", "/nowhere")
        (problem,) = set(problems(["Raises", "Exits"]).values())
    assert str(problem).startswith("no worker could start: ")


def test_leaving_early_leaves_no_process_behind() -> None:
    before = descendants()
    with closing(answers(["Raises", "Loops", "Loops"])) as found:
        next(found)
        started = descendants() - before
        assert started
    assert_gone(started)


@pytest.mark.skipif(not LINUX, reason="only Linux hands orphans to the supervisor")
def test_what_a_job_detaches_ends_with_it() -> None:
    """While other jobs still run, and although it has a session of its own."""
    with closing(answers(["Daemon", "ForksMany", "Stops", "Stops"])) as found:
        assert [next(found).problem for _ in range(2)] == [None, None]
        end = time.monotonic() + 3
        while (left := detached()) and time.monotonic() < end:
            time.sleep(0.05)
        assert left == []


def detached() -> list[int]:
    return [each.pid for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == ["sleep", "987654"]]


def descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def assert_gone(processes: set[psutil.Process]) -> None:
    """They end within a few seconds."""
    end = time.monotonic() + 10
    while (alive := [each for each in processes if runs(each)]) and time.monotonic() < end:
        time.sleep(0.02)
    assert alive == []


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


PROGRAM = """
    import signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may have been started with SIGINT ignored
    from bad_task import Answer, Job
    from lvlm_atlas.lab.isolation import in_processes
    jobs = [Job(name="Loops")] * 2
    try:
        list(in_processes(jobs, "bad_task", Answer, lambda job, problem: None, lambda *_: True, workers=2))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def looping() -> Iterator[tuple[subprocess.Popen[str], set[psutil.Process]]]:
    """A program whose workers are busy for ever, and all its processes."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process, busy(process)
        finally:
            process.kill()


def busy(process: subprocess.Popen[str]) -> set[psutil.Process]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        children = set(psutil.Process(process.pid).children(recursive=True))
        if len(children) >= 3:  # a supervisor and two workers
            return children
        time.sleep(0.05)
    raise AssertionError("its workers did not start")


@pytest.mark.parametrize(
    ("stop", "code"), [(lambda pid: os.killpg(pid, signal.SIGINT), 130), (lambda pid: os.kill(pid, 9), -9)]
)
def test_nothing_outlives_a_program_that_is_interrupted_or_killed(
    looping: tuple[subprocess.Popen[str], set[psutil.Process]], stop: Callable[[int], None], code: int
) -> None:
    process, children = looping
    stop(process.pid)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (code, "")
    assert_gone(children)


def test_workers_do_not_outlive_their_supervisor(
    looping: tuple[subprocess.Popen[str], set[psutil.Process]],
) -> None:
    process, children = looping
    (supervisor,) = psutil.Process(process.pid).children()
    supervisor.kill()
    assert_gone(children)
