"""Chromium over the built site: one build, one server and one browser for all tests."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lvlm_atlas.site.serve import HOST, server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Path:
    """The built site of the checkout's catalog; $LVLM_ATLAS_SITE names one that is built already."""
    if given := os.environ.get("LVLM_ATLAS_SITE"):
        return Path(given).absolute()
    built: Path = request.getfixturevalue("built")
    return built / "site"


@pytest.fixture(scope="session")
def address(folder: Path) -> Iterator[str]:
    """Where it is served."""
    with server(folder, 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://{HOST}:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium: the one that $CHROMIUM names, the system's, or Playwright's own."""
    if not os.environ.get("CI"):
        pytest.importorskip("playwright")
    import playwright.sync_api as playwright

    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with playwright.sync_playwright() as api:
        try:
            started = api.chromium.launch(executable_path=found, args=ARGUMENTS)
        except playwright.Error as error:
            reason = f"no Chromium here ({str(error).splitlines()[0]}); install it, or name it in $CHROMIUM"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
        yield started
        started.close()


class Watched:
    """A page with all that went wrong on it, and every host it asked."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.troubles: list[str] = []
        page.on("console", lambda m: self.troubles.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.troubles.append(str(e)))
        page.on("requestfailed", self._failed)
        page.on("request", lambda r: r.url.startswith((address, "data:", "blob:")) or self.troubles.append(r.url))
        page.on("response", lambda r: self.troubles.append(f"{r.status} {r.url}") if r.status >= 400 else None)

    def open(self, path: str) -> Page:
        """Go to a page of the site."""
        self.page.goto(f"{self.address}/{path}", wait_until="load")
        return self.page

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # leaving a page while its search index loads
            self.troubles.append(f"{request.failure} {request.url}")


@pytest.fixture
def watched(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A page of its own; parametrise `request.param` with options of the context. Any trouble fails the test."""
    context = browser.new_context(**getattr(request, "param", {}))
    watched = Watched(context.new_page(), address)
    yield watched
    context.close()
    assert not watched.troubles
