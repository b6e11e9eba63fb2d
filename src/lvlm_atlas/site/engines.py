"""The programs that turn Markdown into a site: MkDocs with Material, and Zensical, which reads the same configuration.

Which one built a site must not show in its addresses, its anchors or what it links to; tests hold both together.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import yaml

from lvlm_atlas.fault import AtlasError, suggestion

NEEDS = {"mkdocs": ("mkdocs", "material", "mkdocs_redirects"), "zensical": ("zensical",)}
"""The engines, each with the modules that it is made of."""


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ZENSICAL = re.compile(r"^(?:Warning|Error): (.*)\n\s*╭─\[ (\S+) \]", re.MULTILINE)
"""How Zensical tells of a fault: what it is, then the place above a drawing of it."""


def require(engine: str) -> None:
    """See that an engine is installed, and what pages are made with.

    Raises:
        AtlasError: there is no such engine, or something is missing.
    """
    if engine not in NEEDS:
        raise AtlasError(f"no engine {engine!r}; {suggestion(engine, NEEDS)}")
    missing = [module for module in ("jinja2", "minify_html", "pygments", *NEEDS[engine]) if find_spec(module) is None]
    if missing == ["zensical"]:
        raise AtlasError("the engine zensical is not installed; run: pip install zensical, or leave out --engine")
    if missing:
        raise AtlasError(
            f"the site needs {', '.join(missing)}; run: pip install 'lvlm-atlas[site]', in a checkout '.[site]'"
        )


def run_engine(engine: str, docs: Path, out: Path, *, strict: bool, epoch: int) -> None:
    """Build `docs/mkdocs.yml` into `out`, an empty folder.

    Raises:
        AtlasError: the engine found a fault.
    """
    if engine == "zensical":
        _zensical(docs, out, strict=strict, epoch=epoch)
        return
    # No `--quiet`: it hides warnings from the count that makes a strict build fail.
    _run(["mkdocs", "build", "-f", str(docs / "mkdocs.yml"), "-d", str(out), *(["--strict"] if strict else [])], epoch)


def _zensical(docs: Path, out: Path, *, strict: bool, epoch: int) -> None:
    """Zensical writes below its configuration only, and keeps a cache there."""
    work = docs / ".zensical"
    work.mkdir()
    try:
        settings = yaml.safe_load((docs / "mkdocs.yml").read_text(encoding="utf-8"))
        shutil.copytree(docs / settings["docs_dir"], work / "pages")
        # It searches unless it is told not to; the pages have a search of their own.
        plugins = [*settings["plugins"], {"search": {"enabled": False}}]
        settings |= {"docs_dir": "pages", "site_dir": "site", "plugins": plugins}
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        (work / "mkdocs.yml").write_text(text, encoding="utf-8")
        _run(["zensical", "build", "--clean", "-f", str(work / "mkdocs.yml"), *(["--strict"] if strict else [])], epoch)
        for made in sorted((work / "site").iterdir()):
            shutil.move(made, out / made.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(command: list[str], epoch: int) -> None:
    quiet = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true", "SOURCE_DATE_EPOCH": str(epoch)}
    done = subprocess.run(  # noqa: S603  our own interpreter and arguments
        [sys.executable, "-m", *command], env=os.environ | quiet, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AtlasError(f"the site does not build: {_summary(done.stderr or done.stdout)}")


def _summary(log: str) -> str:
    """What the engine found, in one line."""
    log = _COLOUR.sub("", log)
    faults = [line.split("-", 1)[-1].strip() for line in log.splitlines() if line.startswith(("WARNING", "ERROR"))]
    faults += [f"{what}: {where}" for what, where in _ZENSICAL.findall(log)]
    faults = faults or [line.strip() for line in log.splitlines() if line.strip()][-1:] or ["the engine said nothing"]
    more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
    return "; ".join(faults[:3]) + more
