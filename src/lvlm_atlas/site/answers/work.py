"""Computes the answers in processes of their own, while the pages are made: each takes its share of the models.

Answers that an earlier build computed from the same are taken from there.
"""

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
from lvlm_atlas.site.answers.kept import folder_of, intact, keep

FOLDER = "answers"
"""Where the answers lie in the site."""
MOST = 8
"""Processes at most."""


@contextmanager
def computing(root: Path, asked: Path) -> Iterator[Callable[[Path], None]]:
    """Have the answers of an atlas computed. What is yielded waits for them and copies them into a folder.

    Args:
        root: the atlas.
        asked: the file that says for which requests.

    Raises:
        AtlasError: a process failed.
    """
    before = folder_of(FOLDER, root, asked)
    if before and intact(before):
        yield lambda within: _copy(before, within)
        return
    with tempfile.TemporaryDirectory(prefix="lvlm-atlas-") as folder:
        out = Path(folder) / FOLDER
        out.mkdir()
        count = max(1, min(os.cpu_count() or 1, MOST))
        command = [sys.executable, "-m", "lvlm_atlas.site.answers", str(root), str(asked), str(out)]
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
            _copy(out, within)
            if before and not before.exists():
                keep(out, before)

        try:
            yield place
        finally:
            for process in running:
                process.kill()
                process.wait()
                if process.stderr:
                    process.stderr.close()


def _copy(answers: Path, within: Path) -> None:
    shutil.copytree(answers, within / FOLDER, copy_function=shutil.copyfile)
