"""What axe finds: nothing serious on any kind of page, in either scheme. axe-core comes with axe-playwright-python."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

GRAVE = {"serious", "critical"}
LARGE = 100_000
"""Bytes of a page above which axe takes many seconds; its kind has smaller ones."""


def kinds(folder: Path) -> Iterator[str]:
    """Of the pages of each folder the list and the smallest other, and all that stand in none."""
    by_folder: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob("*.html")):
        inside = file.relative_to(folder)
        if len(inside.parts) <= 2 and 10_000 < file.stat().st_size < LARGE:
            by_folder.setdefault(inside.parent, []).append(inside)
    for parent, files in by_folder.items():
        lists = [file for file in files if parent == Path() or file.name == "index.html"]
        others = sorted((file for file in files if file not in lists), key=lambda file: (folder / file).stat().st_size)
        yield from map(Path.as_posix, (*lists, *others[:1]))


def test_axe_finds_nothing_serious_on_any_kind_of_page_in_either_scheme(
    browser: Any, address: str, folder: Path
) -> None:
    found = find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe is not installed; run: pip install axe-playwright-python")
    axe = (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")
    context = browser.new_context(bypass_csp=True, viewport={"width": 1280, "height": 900})
    page, faults, pages = context.new_page(), [], [*kinds(folder)]
    for path in pages:
        page.emulate_media(color_scheme="light")
        page.goto(f"{address}/{path}", wait_until="load")
        page.evaluate(axe)
        every = {"rules": {"target-size": {"enabled": True}}}
        for scheme, rules in (("light", every), ("dark", {"runOnly": ["color-contrast"]})):  # only colours differ
            page.emulate_media(color_scheme=scheme)
            seen = page.evaluate("options => axe.run(document, options)", {"resultTypes": ["violations"], **rules})
            faults += [
                f"{path}, {scheme}: {each['id']} at {each['nodes'][0]['target']}"
                for each in seen["violations"]
                if each["impact"] in GRAVE
            ]
    context.close()
    assert len(pages) >= 20
    assert not faults
