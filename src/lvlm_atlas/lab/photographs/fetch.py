"""Fetches the packages that pictures come from, by the registries' own programs, and keeps what is used of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.photographs.sources import Package, sources

LIMIT_S = 900
"""Seconds that a download may take."""


def fetch(into: Path, given: Path | None, advance: Callable[[str], object]) -> dict[str, Path]:
    """The packages, each with the hash that it must have.

    Args:
        into: folder for what is downloaded.
        given: folder with packages that somebody has downloaded already; they are looked for there first.
        advance: called with the name of each package that is there.

    Raises:
        AtlasError: one cannot be had, or is another than it should be; all such faults in one.
    """
    found: dict[str, Path] = {}
    faults = []
    for name, package in sources().packages.items():
        try:
            found[name] = _one(name, package, into, given)
        except AtlasError as error:
            faults.append(str(error))
        advance(name)
    if faults:
        raise AtlasError("\n".join(faults))
    return found


def _one(name: str, package: Package, into: Path, given: Path | None) -> Path:
    for folder in filter(None, (given, into)):
        if (folder / package.file).is_file():
            return _intact(folder / package.file, package)
    command = _download(name, package)
    with tempfile.TemporaryDirectory(dir=into, prefix="half-") as half:
        try:
            done = subprocess.run(command, cwd=half, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AtlasError(f"{name}: has not come within {LIMIT_S} s; run again, what has come is kept") from None
        files = [path for path in Path(half).iterdir() if path.suffix in (".deb", ".whl")]
        if done.returncode or len(files) != 1:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
            raise AtlasError(f"{name}: {command[0]} fails: {said[-1].strip()}; or give {package.file} with --from")
        # Registries write some characters of a version in another way.
        _intact(files[0], package).replace(into / package.file)
    return into / package.file


def _download(name: str, package: Package) -> list[str]:
    if package.registry == "debian":
        if not shutil.which("apt-get"):
            raise AtlasError(
                f"{name}: is a Debian package, and here is no apt-get; download {package.file} and give its folder "
                f"with --from"
            )
        return ["apt-get", "download", f"{name}={package.version}"]
    platform = ["--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--only-binary", ":all:"]
    return [sys.executable, "-m", "pip", "download", "--no-deps", *platform, f"{name}=={package.version}"]


def _intact(path: Path, package: Package) -> Path:
    digest = sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise AtlasError(
            f"{path.name}: has SHA-256 {digest[:16]}…, not {package.sha256[:16]}…; remove {path}, and run again"
        )
    return path
