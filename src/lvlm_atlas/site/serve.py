"""Shows the built site on this machine."""

from __future__ import annotations

import errno
import os
import re
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

from lvlm_atlas.fault import AtlasError

HOST = "127.0.0.1"
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII)
"""One stretch of a file; of several the whole file is sent, as HTTP allows."""


class _Handler(SimpleHTTPRequestHandler):
    """Files of the site, its own page for what is not there, and no log."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
        """Say nothing: the terminal keeps the address."""

    def translate_path(self, path: str) -> str:
        """The file of a path; nothing where that leaves the site, by a link or by a path that no file can have."""
        try:
            file = Path(super().translate_path(path)).resolve()
            within = file.is_relative_to(Path(self.directory).resolve())
        except (OSError, ValueError):  # a null byte, a name that is too long, a circle of links
            within = False
        return str(file) + "/" * path.endswith("/") if within else str(Path(self.directory) / "none" / "here")

    def send_head(self) -> Any:
        """As the base class, and a stretch of a file where one is asked for."""
        path, wanted = Path(self.translate_path(self.path)), _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted is None or not any(wanted.groups()) or not path.is_file():
            return super().send_head()
        size, (first, last) = path.stat().st_size, wanted.groups()
        start = int(first) if first else max(0, size - int(last))
        end = min(int(last), size - 1) if first and last else size - 1
        if start > end:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        with path.open("rb") as file:
            file.seek(start)
            stretch = file.read(end - start + 1)
        self.send_response(206)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(len(stretch)))
        self.end_headers()
        return BytesIO(stretch)

    def list_directory(self, path: str | os.PathLike[str]) -> None:  # noqa: ARG002  the base class hands it over
        """Tell nobody what lies in a folder without a page."""
        self.send_error(404)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        page = Path(self.directory) / "404.html"
        if code != 404 or not page.is_file():
            super().send_error(code, message, explain)
            return
        body = page.read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the built site; port 0 picks a free one.

    Raises:
        AtlasError: there is no built site, or the port cannot be had.
    """
    if not (folder / "index.html").is_file():
        raise AtlasError(f"there is no built site in {folder}; run: lvlm-atlas build")
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(folder)))
    except OverflowError:
        raise AtlasError(f"the port is 0 to 65535, got {port}") from None
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise AtlasError(f"port {port} {why}; name another, or --port 0 for any free one") from None


def serve(folder: Path, port: int = 8000) -> None:
    """Serve the built site on this machine alone until interrupted.

    Raises:
        AtlasError: there is no built site, or the port cannot be had.
    """
    with server(folder, port) as running:
        try:
            print(f"Serving {folder} at http://{HOST}:{running.server_port}/ (Ctrl-C ends)", flush=True)  # noqa: T201
            running.serve_forever()
        except KeyboardInterrupt:
            print()  # noqa: T201  leaves the `^C` of the terminal on its own line
