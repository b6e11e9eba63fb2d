"""The program itself runs in a page: the same words in, the same words out."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.site import heads
from lvlm_atlas.site.python.bundle import bundle
from lvlm_atlas.site.python.fetch import fetch
from lvlm_atlas.site.python.pins import pins
from lvlm_atlas.site.serve import HOST, server

SCRIPTS = ("elements", "request", "ask")
ENTRY = "catalog/techniques/prefilling/token-compression/fastv.yaml"

PAGE = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Ask</title>
<meta http-equiv="Content-Security-Policy" content="{heads.SCRIPTS}">
{"".join(f'<script src="assets/scripts/{name}.js" defer></script>' for name in SCRIPTS)}</head><body>
<div class="la-program" data-python="yes" data-command="list" data-examples='["query stage:decoding"]'
data-path="{ENTRY}"></div></body></html>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[str]:
    """Where a site of this page alone is served, with an interpreter if one can be fetched."""
    pinned = pins(data_root() / "site")
    try:
        fetched = fetch(pinned)
    except AtlasError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("program")
    shutil.copytree(data_root() / "site" / "assets", folder / "assets")
    bundle(data_root(), fetched, pinned, folder)
    (folder / "index.html").write_text(PAGE, "utf-8")
    with server(folder, 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://{HOST}:{running.server_port}/index.html"
        running.shutdown()
        thread.join()


def told(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "lvlm_atlas", *words], capture_output=True, text=True, check=False)
    return " ".join((done.stdout + done.stderr).split())


def test_a_page_answers_what_the_command_line_answers(site: str, browser: Any) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    plan = ("plan", "-m", "qwen2.5-vl-7b", "-d", "l40s", "--image", "1920x1080", "-g", "ttft", "--max", "1")
    page.goto(f"{site}?run={'+'.join(('lvlm-atlas', *plan))}")
    out = page.get_by_role("region", name="Output")
    out.get_by_text("Predicted, not measured").wait_for(timeout=120_000)
    assert " ".join(out.inner_text().split()) == told(*plan)

    page.get_by_role("button", name="query stage:decoding").click()
    out.get_by_text("rekv").first.wait_for(timeout=60_000)
    assert re.search(r"run=query(\+|%20)stage%3Adecoding", page.url)

    page.get_by_role("textbox", name="Command").fill("estimate -m qwen2.5-vl-7x -d l40s")
    page.get_by_role("textbox", name="Command").press("Enter")
    page.get_by_text("Exit code 2.").wait_for(timeout=60_000)
    assert "did you mean 'qwen2.5-vl-7b'" in out.inner_text()

    text = next((data_root() / "catalog" / "techniques").rglob("fastv.yaml")).read_text("utf-8")
    page.get_by_role("textbox", name="Its YAML").fill(text.replace("stage: prefilling", "stage: prefiling", 1))
    page.get_by_role("button", name="Check").click()
    page.get_by_text("Faults:").wait_for(timeout=120_000)
    line = text.splitlines().index("stage: prefilling") + 1
    assert f"{ENTRY}:{line}:8: unknown-term: stage 'prefiling'" in out.inner_text()
    page.get_by_role("textbox", name="Its YAML").fill(text)
    page.get_by_role("button", name="Check").click()
    page.get_by_text("No faults.").wait_for(timeout=120_000)
    assert all(url.startswith(site.removesuffix("index.html")) for url in asked)
    page.close()


def test_what_takes_too_long_is_stopped_and_the_next_command_starts_anew(site: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{site}?run=list")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    page.get_by_role("textbox", name="Command").fill("--version")
    page.get_by_role("button", name="Run").click()
    page.get_by_role("region", name="Output").get_by_text("data of").wait_for(timeout=120_000)
    page.close()


def test_a_page_in_a_folder_says_that_it_needs_a_server(folder: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{(folder / 'tools' / 'ask.html').as_uri()}?run=list")
    page.get_by_role("status").get_by_text(re.compile("lvlm-atlas (serve|build --python)")).wait_for()
    page.close()
