"""A process and its children, and the memory that they take."""

from __future__ import annotations

from pathlib import Path

import psutil


def resident_byte(pid: int) -> int:
    """Resident memory of a process and all its descendants, in bytes; 0 once it is gone."""
    try:
        return sum(each.memory_info().rss for each in (psutil.Process(pid), *descendants(pid)))
    except psutil.Error:
        return 0


def descendants(pid: int) -> list[psutil.Process]:
    """The children of a process, theirs, and so on."""
    return _below(pid, recursive=True)


def children(pid: int) -> list[psutil.Process]:
    """The children of a process."""
    return _below(pid, recursive=False)


def _below(pid: int, *, recursive: bool) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=recursive) if _has_children(pid) else []
    except psutil.Error:
        return []


def _has_children(pid: int) -> bool:
    """Whether a process has children, as far as the kernel says so cheaply: psutil reads all of `/proc` for it."""
    lists = list(Path(f"/proc/{pid}/task").glob("*/children"))
    try:
        return not lists or any(file.read_bytes() for file in lists)
    except OSError:  # a thread has ended since
        return True
