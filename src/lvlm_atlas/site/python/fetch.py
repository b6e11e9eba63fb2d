"""Fetches the interpreter once, by npm and pip, into the user's cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.files import cache_folder
from lvlm_atlas.site.python.pins import Pins

LIMIT_S = 180
"""Seconds that either may take."""


def kept(pins: Pins) -> Path | None:
    """The folder of files that were fetched before and are what is pinned; None where there is none."""
    folder = _folder(pins)
    try:
        pins.require_intact(folder)
    except (OSError, AtlasError):
        return None
    return folder


def fetch(pins: Pins) -> Path:
    """The folder of the files, fetched if need be.

    Raises:
        AtlasError: npm or pip is missing or fails, or what came is not what is pinned.
    """
    if folder := kept(pins):
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise AtlasError("Python in the page needs npm, which fetches Pyodide once; install Node.js, or --no-python")
    folder = _folder(pins)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="half-") as name:
        half = Path(name)
        _run([npm, "pack", f"pyodide@{pins.pyodide}", "--pack-destination", name, "--fetch-retries=0"], half)
        wheel = ["--no-deps", "--only-binary", ":all:", "--platform", pins.platform, "--python-version", pins.python]
        _run([sys.executable, "-m", "pip", "download", *wheel, "-d", name, f"pydantic-core=={pins.core}"], half)
        try:
            pins.require_intact(half)
        except OSError as error:
            raise AtlasError(f"{Path(error.filename).name} did not come; run again, or --no-python") from None
        folder.mkdir(exist_ok=True)
        for file in (pins.runtime_file, pins.core_file):
            (half / file).replace(folder / file)
    return folder


def _run(command: list[str], folder: Path) -> None:
    what = Path(command[0]).name if "pip" not in command else "pip"
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise AtlasError(f"{what} has not answered within {LIMIT_S} s; run again, or --no-python") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise AtlasError(f"{what} fails: {said[-1].strip()}; run again, or --no-python")


def _folder(pins: Pins) -> Path:
    return cache_folder() / f"python-{pins.pyodide}-{pins.core}"
