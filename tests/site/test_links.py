"""The built pages as a whole: every link leads somewhere, nothing is loaded from elsewhere, nothing odd gets out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


@pytest.fixture(params=["odd_site", "site"])
def folder(request: pytest.FixtureRequest) -> Path:
    made: Path = request.getfixturevalue(request.param)
    return made


def html_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.html")) if path.name != "404.html"]


def test_every_link_and_anchor_inside_the_site_resolves(folder: Path, read: Callable[[Path], Any]) -> None:
    parsed = {path: read(path) for path in html_files(folder)}
    dead = []
    for path, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            known = target in parsed and (not parts.fragment or unquote(parts.fragment) in parsed[target].ids)
            if not (known or (target.is_file() and not parts.fragment)):
                dead.append(f"{path.relative_to(folder)}: {link}")
    assert not dead


def test_nothing_is_loaded_from_another_host(folder: Path, read: Callable[[Path], Any]) -> None:
    for path in folder.rglob("*.html"):
        for load in read(path).loads:
            assert not urlsplit(load).netloc, (path, load)
    for path in folder.rglob("assets/atlas.css"):
        assert "url(" not in path.read_text(encoding="utf-8")
        assert "@import" not in path.read_text(encoding="utf-8")


def test_ids_are_unique_on_each_page(folder: Path, read: Callable[[Path], Any]) -> None:
    for path in html_files(folder):
        for id_, count in read(path).ids.items():
            assert count == 1, (path, id_)


def test_links_out_go_to_readable_places_only(folder: Path, read: Callable[[Path], Any]) -> None:
    for path in html_files(folder):
        for link in read(path).links:
            assert urlsplit(link).scheme in ("", "https", "http"), (path, link)


def test_odd_text_brings_no_tag_of_its_own(odd_site: Path, read: Callable[[Path], Any]) -> None:
    for path in html_files(odd_site):
        found = Counter(read(path).tags)
        assert not {"b", "i", "q", "img", "del", "iframe", "object", "y"} & found.keys(), path


def test_odd_titles_are_shown_as_they_are(odd_site: Path) -> None:
    html = (odd_site / "techniques/fastv.html").read_text(encoding="utf-8")
    assert "<title>Fast<3V | *x* - LVLM Atlas</title>" in html
    assert '<meta content="Drops tokens. A|B' in html
