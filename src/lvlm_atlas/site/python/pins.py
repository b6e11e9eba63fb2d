"""Which interpreter a site takes: names, versions and hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import yaml

from lvlm_atlas.fault import AtlasError

FILE = "python.yaml"


@dataclass(frozen=True)
class Pins:
    """What is fetched, and by which hash it is known."""

    pyodide: str
    """Version of the npm package `pyodide`."""
    pyodide_sha512: str
    core: str
    """Version of pydantic-core."""
    core_sha256: str
    python: str
    """Version of Python that the interpreter is, such as `3.14`."""
    platform: str
    """Tag of the wheels that run on it."""

    @property
    def runtime_file(self) -> str:
        """Name of the file that npm packs."""
        return f"pyodide-{self.pyodide}.tgz"

    @property
    def core_file(self) -> str:
        """Name of the wheel."""
        tag = f"cp{self.python.replace('.', '')}"
        return f"pydantic_core-{self.core}-{tag}-{tag}-{self.platform}.whl"

    def require_intact(self, folder: Path) -> None:
        """Refuse files that are not what was pinned.

        Raises:
            AtlasError: a file in the folder has another hash.
            OSError: one cannot be read.
        """
        for name, kind, wanted in (
            (self.runtime_file, "sha512", self.pyodide_sha512), (self.core_file, "sha256", self.core_sha256),
        ):  # fmt: skip
            got = hashlib.new(kind, (folder / name).read_bytes()).hexdigest()
            if got != wanted:
                raise AtlasError(f"{name} has the {kind} {got[:16]}…, and {wanted[:16]}… is pinned; it is not used")


def pins(source: Path) -> Pins:
    """The pins of a site's source."""
    data = yaml.safe_load((source / FILE).read_text(encoding="utf-8"))
    return Pins(
        pyodide=data["pyodide"]["version"], pyodide_sha512=data["pyodide"]["sha512"],
        core=data["pydantic_core"]["version"], core_sha256=data["pydantic_core"]["sha256"],
        python=data["python"], platform=data["platform"],
    )  # fmt: skip
