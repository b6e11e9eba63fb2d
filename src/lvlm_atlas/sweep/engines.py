"""Who computes the parts: processes of this machine, or a Dask cluster. Parts come back in the order they get done."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.sweep.part import part

if TYPE_CHECKING:
    from distributed import Client, Future

# The extra [dask] is imported where it is used.
# ruff: noqa: PLC0415

POLL_S = 0.02
PATIENCE_S = 5
"""Seconds in which a scheduler must answer."""
LOST = "the cluster has lost its scheduler or all its workers"
GO_ON = "what is finished is kept, and the same command goes on from there"


def local(job: bytes, parts: Iterator[int], workers: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Compute parts in processes of this machine. Leaving the iteration ends them.

    Args:
        job: the pickled `Job`.
        parts: numbers of the parts, taken as they are needed.
        workers: processes; None: as many as there are cores.

    Raises:
        AtlasError: a process was ended from outside.
    """
    pool: dict[Connection, BaseProcess] = {}
    try:
        for index in islice(parts, workers or os.cpu_count() or 1):
            connection, process = _worker(job)
            pool[connection] = process
            connection.send(index)
        while pool:
            ready = set(wait(list(pool)))
            for connection in [each for each in pool if each in ready]:
                index, answer = connection.recv()
                if isinstance(answer, Exception):
                    raise answer
                following = next(parts, None)
                if following is None:
                    connection.close()
                    pool.pop(connection).join()
                else:
                    connection.send(following)
                yield index, answer
    except (EOFError, ConnectionError):
        raise AtlasError(f"a worker process was ended from outside, perhaps for want of memory; {GO_ON}") from None
    finally:
        for connection, process in pool.items():
            process.terminate()
            process.join()
            connection.close()


def dask(job: bytes, parts: Iterator[int], scheduler: str) -> Iterator[tuple[int, bytes]]:
    """Compute parts on a Dask cluster. Leaving the iteration gives up what still runs.

    Args:
        job: the pickled `Job`.
        parts: numbers of the parts, taken as they are needed.
        scheduler: address of the cluster's scheduler, such as `tcp://10.0.0.1:8786`.

    Raises:
        AtlasError: no scheduler answers there, it has no workers, or they were lost.
    """
    from distributed import Client
    from distributed.scheduler import KilledWorker

    try:
        client = Client(scheduler, timeout=PATIENCE_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise AtlasError(f"--scheduler {scheduler}: no Dask scheduler answers there ({_first_line(error)})") from None
    with client:
        threads = sum(client.ncores().values())
        if not threads:
            raise AtlasError(f"--scheduler {scheduler}: the cluster has no workers; start some with dask-worker")
        shared = client.scatter(job, broadcast=True)
        # Two for each thread: none waits for us, and few results lie in memory.
        running = {client.submit(part, shared, index, pure=False): index for index in islice(parts, 2 * threads)}
        while running:
            for future in _done(client, [*running]):
                try:
                    answer = (running.pop(future), future.result())
                except KilledWorker:
                    raise AtlasError(f"workers of the cluster died over a part; {GO_ON}") from None
                except CancelledError:
                    raise AtlasError(f"{LOST}; {GO_ON}") from None
                following = next(parts, None)
                if following is not None:
                    running[client.submit(part, shared, following, pure=False)] = following
                yield answer


def _done(client: Client, running: list[Future]) -> Collection[Future]:
    """Those that are done, once there are some.

    Raises:
        AtlasError: the cluster has lost its scheduler, or all its workers.
    """
    looked = time.monotonic()
    while not (finished := [future for future in running if future.done()]):
        time.sleep(POLL_S)
        if time.monotonic() - looked > PATIENCE_S:
            looked = time.monotonic()
            if client.status != "running" or not client.ncores():
                raise AtlasError(f"{LOST}; {GO_ON}")
    return finished


def _worker(job: bytes) -> tuple[Connection, BaseProcess]:
    """A process that serves parts. It ends with this one, however that ends, since its connection closes then."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, job), daemon=True)
    with _interrupts_held():
        process.start()
    there.close()
    return here, process


def _serve(connection: Connection, job: bytes) -> None:
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        while True:
            index = connection.recv()
            try:
                connection.send((index, part(job, index)))
            except Exception as error:  # noqa: BLE001  the parent raises it
                if not isinstance(error, AtlasError):
                    error.add_note(traceback.format_exc())
                connection.send((index, error))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a process starts: it inherits that, and leaves interrupts to its parent."""
    resource_tracker.ensure_running()  # the first start would start it too, which lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
