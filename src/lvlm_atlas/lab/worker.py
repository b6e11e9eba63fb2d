"""A process that carries out jobs of a task, one after another: `python -m lvlm_atlas.lab.worker TASK FOLDER CHANNEL`.

A task is a module with three functions: `carry_out(job)` makes an answer, and the annotation of `job` says of which
kind jobs are; `prepare(job)` makes what such jobs share; `reset()` forgets it, so that where several jobs run in one
process none sees what the one before did to it.

Over the channel, a socket, the worker says `READY`, gets a line of a number, a token and a job as JSON, prepares it,
says `BUSY`, carries it out, writes the token and the answer to `FOLDER/NUMBER.json` and says `READY` again.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import get_type_hints

READY, BUSY = b"r", b"b"


def serve(channel: socket.socket, task: str, folder: Path) -> None:
    """Carry out the jobs that arrive on `channel` until its other end is closed, which ends this process."""
    module = importlib.import_module(task)
    kind = get_type_hints(module.carry_out)["job"]
    lines: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_receive, args=(channel, lines), daemon=True).start()
    process = os.getpid()
    while True:
        channel.sendall(READY)
        number, token, job = lines.get().split(b" ", 2)
        record = kind.model_validate_json(job)
        module.prepare(record)
        channel.sendall(BUSY)
        answer = module.carry_out(record).model_dump_json(by_alias=True)
        if os.getpid() != process:
            os._exit(0)  # a reference forked: its copy does not answer
        written = folder / f"{number.decode()}.part"
        written.write_bytes(token + b"\n" + answer.encode())
        written.replace(written.with_suffix(".json"))
        module.reset()


def _receive(channel: socket.socket, lines: SimpleQueue[bytes]) -> None:
    """Hand on each line; end the process, whatever it is busy with, when the supervisor is gone."""
    try:
        for line in channel.makefile("rb"):
            lines.put(line.rstrip(b"\n"))
    finally:
        os._exit(1)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[3])), sys.argv[1], Path(sys.argv[2]))
