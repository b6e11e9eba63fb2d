"""Peak memory of this process alone.

`ru_maxrss` of a process that was started by another begins at what that one held, for the kernel carries it over when
a program is executed; `VmHWM` begins anew.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_byte() -> int:
    """Most resident memory of this process so far, in bytes; off Linux with that of the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1024 if sys.platform == "linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
