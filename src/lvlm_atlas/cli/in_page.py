"""Runs commands of the program in a page: words and files in, what it prints out. The page's worker calls it."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Iterator, Mapping

from lvlm_atlas.atlas.root import data_root


def run(line: str, columns: int, files: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command line, with or without the program's name, as a terminal so wide would.

    Args:
        line: words as a shell reads them.
        columns: characters in a line.
        files: texts that lie in the catalog meanwhile, by path.

    Returns:
        The exit code, and what was printed on standard output and on standard error.
    """
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        return 2, "", f"lvlm-atlas: {str(error).lower()}; close what is open\n"
    sys.argv = ["lvlm-atlas", *(words[1:] if words[:1] == ["lvlm-atlas"] else words)]
    os.environ["COLUMNS"] = str(columns)
    out, err = io.StringIO(), io.StringIO()
    with _lying(files or {}), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _main()
    return code, out.getvalue(), err.getvalue()


def _main() -> int:
    from lvlm_atlas.cli import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


@contextlib.contextmanager
def _lying(files: Mapping[str, str]) -> Iterator[None]:
    """Files in the catalog, gone afterwards."""
    places = {data_root() / path: text for path, text in files.items()}
    try:
        for place, text in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        yield
    finally:
        for place in places:
            place.unlink(missing_ok=True)
