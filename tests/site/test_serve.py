"""The built site on this machine: its pages, its own page for what is missing, clear words for a taken port."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.site.serve import HOST, serve, server


@pytest.fixture
def address(odd_site: Path) -> Iterator[str]:
    with server(odd_site, 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://{HOST}:{running.server_port}"
        running.shutdown()
        thread.join()


def test_pages_and_data_are_served(address: str) -> None:
    with urllib.request.urlopen(f"{address}/techniques/fastv.json") as answer:  # noqa: S310  our own server
        assert answer.headers["Content-Type"] == "application/json"


def test_what_is_not_there_gets_the_sites_own_page(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}/nothing.html")  # noqa: S310  our own server
    with caught.value as answer:
        assert answer.code == 404
        assert b"LVLM Atlas" in answer.read()


def test_nothing_outside_the_site_is_served(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}/../../../../etc/hostname")  # noqa: S310  our own server
    caught.value.close()


@pytest.mark.parametrize(
    "path", ["/%00", "/techniques/%00.html", "/assets/", "/" + "x" * 5000, "/out.txt", "/out/hostname"]
)
def test_odd_paths_folders_and_links_that_leave_the_site_are_not_there(address: str, odd_site: Path, path: str) -> None:
    (odd_site / "out.txt").unlink(missing_ok=True)
    (odd_site / "out.txt").symlink_to("/etc/hostname")
    (odd_site / "out").unlink(missing_ok=True)
    (odd_site / "out").symlink_to("/etc")
    try:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{address}{path}")  # noqa: S310  our own server
        with caught.value as answer:
            assert answer.code in (404, 414)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    finally:
        (odd_site / "out.txt").unlink()
        (odd_site / "out").unlink()


@pytest.mark.parametrize(
    ("asked", "slice_"), [("bytes=0-9", slice(0, 10)), ("bytes=10-", slice(10, None)), ("bytes=-7", slice(-7, None))]
)
def test_a_stretch_of_a_file_is_served(address: str, odd_site: Path, asked: str, slice_: slice) -> None:
    whole = (odd_site / "techniques/fastv.json").read_bytes()
    request = urllib.request.Request(f"{address}/techniques/fastv.json", headers={"Range": asked})  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310  our own server
        assert (answer.status, answer.read()) == (206, whole[slice_])
        assert answer.headers["Content-Range"].endswith(f"/{len(whole)}")


@pytest.mark.parametrize(("asked", "code"), [("bytes=999999999-", 416), ("bytes=9-2", 416)])
def test_a_stretch_that_is_not_there_is_refused(address: str, asked: str, code: int) -> None:
    request = urllib.request.Request(f"{address}/techniques/fastv.json", headers={"Range": asked})  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)  # noqa: S310  our own server
    with caught.value as answer:
        assert answer.code == code


@pytest.mark.parametrize("asked", ["bytes=-", "bytes=a-b", "bytes=0-1,4-5", "lines=1-2"])
def test_what_is_no_stretch_gets_the_whole_file(address: str, odd_site: Path, asked: str) -> None:
    request = urllib.request.Request(f"{address}/techniques/fastv.json", headers={"Range": asked})  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310  our own server
        assert (answer.status, answer.read()) == (200, (odd_site / "techniques/fastv.json").read_bytes())


def test_a_taken_port_is_named(odd_site: Path) -> None:
    with server(odd_site, 0) as running, pytest.raises(AtlasError, match=f"port {running.server_port} is taken"):
        serve(odd_site, running.server_port)


def test_a_port_out_of_range_is_named(odd_site: Path) -> None:
    with pytest.raises(AtlasError, match="0 to 65535, got 70000"):
        serve(odd_site, 70000)


def test_an_unbuilt_site_is_named(tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="run: lvlm-atlas build"):
        serve(tmp_path, 0)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_it_quietly(odd_site: Path) -> None:
    code = f"from pathlib import Path; from lvlm_atlas.site.serve import serve; serve(Path({str(odd_site)!r}), 0)"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True) as ran:
        assert ran.stdout is not None
        try:
            assert ran.stdout.readline().startswith("Serving ")
            ran.send_signal(signal.SIGINT)
            _, errors = ran.communicate(timeout=20)
        finally:
            ran.kill()
    assert (ran.returncode, errors) == (0, "")
