"""Memory that a process and its children take."""

from __future__ import annotations

from pathlib import Path

import psutil


def resident_byte(pid: int) -> int:
    """Resident memory of a process and all its descendants, in bytes; 0 once it is gone."""
    try:
        process = psutil.Process(pid)
        children = process.children(recursive=True) if _has_children(pid) else []
        return sum(each.memory_info().rss for each in (process, *children))
    except psutil.Error:
        return 0


def _has_children(pid: int) -> bool:
    """Whether a process has children, as far as the kernel says so cheaply: psutil reads all of `/proc` for it."""
    lists = list(Path(f"/proc/{pid}/task").glob("*/children"))
    try:
        return not lists or any(file.read_bytes() for file in lists)
    except OSError:  # a thread has ended since
        return True
