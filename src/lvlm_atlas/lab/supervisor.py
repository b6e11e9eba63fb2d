"""The process that starts workers, bounds them and kills them; see `lvlm_atlas.lab.isolation`.

`python -m lvlm_atlas.lab.supervisor TASK FOLDER WORKERS TIME_S MEMORY_BYTE OUTPUT_BYTE FORK` reads a number, a token
and a job a line from standard input and writes to standard output, as JSON lines, `"ready"` and then
`[number, problem]` for each job that ended; a problem of null says that the answer lies in FOLDER. It ends, and with it
all workers, when its standard input is closed. With FORK it imports and prepares the task once, and every job gets a
fork of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TextIO, get_type_hints

import psutil

from lvlm_atlas.lab.isolation import Bounds, last_line
from lvlm_atlas.lab.memory import children, descendants, resident_byte
from lvlm_atlas.lab.worker import BUSY, READY, serve

_PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.25
"""How often time and memory are looked at; the end of a job is noticed at once."""
START_S = 300.0
"""Wall time until a worker must be ready, and until it must have prepared a job."""
JOBS_EACH = 8
"""Jobs that one worker carries out where it is not forked."""


@dataclass
class Worker:
    """A process that carries out jobs, seen from outside."""

    pid: int
    channel: socket.socket
    log: Path
    deadline: float
    """Until when, by the monotonic clock, it must be ready or have ended its job."""
    job: int | None = None
    """Number of the job it is busy with."""
    ready: bool = False
    busy: bool = False
    """Whether it is carrying its job out, and no longer preparing."""
    jobs: int = 0
    """How many jobs it was given."""

    exit_code: int | None = None
    """Negative where a signal ended it; None while it runs."""

    def has_ended(self, grace_s: float = 0.0) -> bool:
        """Whether it has ended, or does so within `grace_s`."""
        end = time.monotonic() + grace_s
        while self.exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                break
            else:
                time.sleep(0.005)
        return self.exit_code is not None

    def kill(self) -> None:
        """Kill it, what is left of its process group, and its children wherever they have gone."""
        for child in descendants(self.pid):
            with contextlib.suppress(psutil.Error):
                child.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)  # it may not lead a group of its own yet
            self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.channel.close()


@dataclass
class Supervisor:
    """Hands jobs to workers and reports how each ended."""

    task: str
    folder: Path
    count: int
    """Workers at a time."""
    bounds: Bounds
    fork: bool
    reports: TextIO
    workers: list[Worker] = field(default_factory=list)
    waiting: deque[bytes] = field(default_factory=deque)
    """Jobs that no worker has taken yet, each its number and JSON."""
    rest: bytes = b""
    """The start of a line whose end has not been read yet."""
    started: int = 0
    """Workers so far."""
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def run(self) -> None:
        """Until standard input is closed."""
        while self.fork and not self.waiting:
            if not self._read():
                return
        if self.fork:
            self._warm_up(self.waiting[0])
        self._say("ready")
        self.selector.register(0, selectors.EVENT_READ)
        polled = time.monotonic()
        while True:
            self._hand_out()
            for key, _ in self.selector.select(POLL_S if self.workers else None):
                if key.fileobj == 0:
                    if not self._read():
                        return
                elif key.data in self.workers:
                    self._hear(key.data)
            if time.monotonic() - polled >= POLL_S:
                polled = time.monotonic()
                for worker in list(self.workers):
                    self._check(worker)
                self._kill_orphans()

    def stop(self) -> None:
        """Kill all workers, and what they left behind."""
        for worker in self.workers:
            worker.kill()
        self.workers.clear()
        self._kill_orphans()

    def _kill_orphans(self) -> None:
        """Kill processes that outlived their parents: they have become ours, and belong to no worker."""
        ours = {worker.pid for worker in self.workers}
        for orphan in children(os.getpid()):
            if orphan.pid not in ours:
                with contextlib.suppress(psutil.Error):
                    orphan.kill()
                    orphan.wait(timeout=1)

    def _read(self) -> bool:
        """Take the jobs that standard input holds; False where it is closed."""
        chunk = os.read(0, 2**20)
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        self.waiting.extend(lines)
        return bool(chunk)

    def _warm_up(self, first: bytes) -> None:
        """Import the task, torch with it, and make what jobs like the first one share."""
        module = importlib.import_module(self.task)
        kind = get_type_hints(module.prepare)["job"]
        with contextlib.suppress(Exception):  # what is wrong with a job is for its own worker to say
            module.prepare(kind.model_validate_json(first.split(b" ", 2)[2]))
        gc.collect()
        gc.freeze()  # a collection in a fork would copy all of these pages

    def _hand_out(self) -> None:
        """Give waiting jobs to ready workers, and start workers for those that are left."""
        for worker in [each for each in self.workers if each.ready and each.job is None]:
            if self.waiting:
                self._give(worker, self.waiting.popleft())
        free = sum(worker.job is None for worker in self.workers)
        while len(self.workers) < self.count and free < len(self.waiting):
            self._start()
            free += 1

    def _give(self, worker: Worker, line: bytes) -> None:
        worker.job, worker.jobs = int(line.partition(b" ")[0]), worker.jobs + 1
        worker.deadline = time.monotonic() + START_S
        with contextlib.suppress(OSError):  # it is gone: the closed channel says so
            worker.channel.sendall(line + b"\n")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self.started += 1
        log = self.folder / f"worker-{self.started}.log"
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._become_worker(theirs, log)
        theirs.close()
        ours.settimeout(5.0)
        worker = Worker(pid, ours, log, time.monotonic() + START_S)
        self.workers.append(worker)
        self.selector.register(ours, selectors.EVENT_READ, worker)

    def _become_worker(self, channel: socket.socket, log: Path) -> NoReturn:
        """In the child: leave everything of the supervisor's behind and carry out jobs."""
        code = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.bounds.output_byte,) * 2)
            output, nothing = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), os.open(os.devnull, os.O_RDONLY)
            for new, old in ((nothing, 0), (output, 1), (output, 2)):
                os.dup2(new, old)
            self.reports.close()
            self.selector.close()
            for worker in self.workers:
                worker.channel.close()
            if not self.fork:
                os.set_inheritable(channel.fileno(), True)
                command = [sys.executable, "-m", "lvlm_atlas.lab.worker", self.task, self.folder, channel.fileno()]
                os.execv(sys.executable, list(map(str, command)))  # noqa: S606 - our own module, no shell
            serve(channel, self.task, self.folder)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                sys.stderr.write(end.code)
        except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _hear(self, worker: Worker) -> None:
        """A worker is ready (again) or begins its job, or its channel is closed."""
        try:
            message = worker.channel.recv(1)
        except OSError:
            message = b""
        if message == BUSY:
            worker.busy, worker.deadline = True, time.monotonic() + self.bounds.time_s
            return
        if message != READY:
            ended = worker.has_ended(grace_s=1.0)
            self._drop(worker, self._end_of(worker) if ended else "closed its channel and was stopped")
            return
        worker.ready = True
        if worker.job is not None:
            self._say((worker.job, None))
            worker.job, worker.busy = None, False
            worker.log.write_bytes(b"")
            spent = self.fork or worker.jobs == JOBS_EACH or 2 * resident_byte(worker.pid) > self.bounds.memory_byte
            if spent:
                self._drop(worker, None)

    def _check(self, worker: Worker) -> None:
        """Hold a worker to its bounds, and notice one that ended while a child of its keeps the channel open."""
        if worker.has_ended():
            self._drop(worker, self._end_of(worker))
        elif not worker.ready or worker.job is not None:
            used, limit = resident_byte(worker.pid), self.bounds.memory_byte
            if time.monotonic() > worker.deadline:
                spent_s = self.bounds.time_s if worker.busy else START_S
                self._drop(worker, f"took longer than {spent_s:g} s and was stopped")
            elif used > limit:
                self._drop(worker, f"took {used / 2**20:.0f} MiB, more than {limit / 2**20:.0f}, and was stopped")

    def _end_of(self, worker: Worker) -> str:
        return f"the process ended with {worker.exit_code}: {last_line(worker.log)}"

    def _drop(self, worker: Worker, problem: str | None) -> None:
        """Take leave of a worker; its job, or the next one where it never was ready, has ended with `problem`."""
        self.workers.remove(worker)
        self.selector.unregister(worker.channel)
        worker.kill()
        self._kill_orphans()
        worker.log.unlink(missing_ok=True)
        if problem is not None:
            if worker.job is None and not worker.ready and self.waiting:
                worker.job = int(self.waiting.popleft().partition(b" ")[0])
            if worker.job is not None:
                self._say((worker.job, problem))

    def _say(self, message: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more; standard input is closed, too
            self.reports.write(json.dumps(message) + "\n")
            self.reports.flush()


def _adopt_orphans() -> None:
    """Become the parent of processes below whose own parent ends, where the system can do that: Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main() -> None:
    """What the command line asks for."""
    task, folder, workers, time_s, memory_byte, output_byte, fork = sys.argv[1:]
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no report
    bounds = Bounds(float(time_s), int(memory_byte), int(output_byte))
    _adopt_orphans()
    supervisor = Supervisor(task, Path(folder), int(workers), bounds, bool(int(fork)), reports)
    try:
        supervisor.run()
    finally:
        supervisor.stop()
    os._exit(0)


if __name__ == "__main__":
    main()
