"""Computes the answers in processes of their own, while the pages are made: each takes its share of the models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lvlm_atlas.fault import AtlasError

FOLDER = "answers"
"""Where the answers lie in the site."""
MOST = 8
"""Processes at most."""


@contextmanager
def computing(root: Path, source: Path) -> Iterator[Callable[[Path], None]]:
    """Have the answers of an atlas computed. What is yielded waits for them and copies them into a folder.

    Args:
        root: the atlas.
        source: folder of the site's sources.

    Raises:
        AtlasError: a process failed.
    """
    with tempfile.TemporaryDirectory(prefix="lvlm-atlas-") as folder:
        out = Path(folder) / FOLDER
        out.mkdir()
        count = max(1, min(os.cpu_count() or 1, MOST))
        command = [sys.executable, "-m", "lvlm_atlas.site.answers", str(root), str(source), str(out)]
        running = [
            subprocess.Popen(  # noqa: S603  our own interpreter and arguments
                [*command, str(part), str(count)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            for part in range(count)
        ]

        def place(within: Path) -> None:
            for process in running:
                if process.wait():
                    said = process.stderr.read().strip() if process.stderr else ""
                    raise AtlasError(f"the answers of the site cannot be computed: {said.rpartition(chr(10))[2]}")
            shutil.copytree(out, within / FOLDER)

        try:
            yield place
        finally:
            for process in running:
                process.kill()
                process.wait()
                if process.stderr:
                    process.stderr.close()
