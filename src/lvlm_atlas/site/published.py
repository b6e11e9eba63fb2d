"""Where a site and what it is made from can be had, if anywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from lvlm_atlas.fault import AtlasError

_ADDRESS = re.compile(r"https?://[^\s\"<>?#]+")


@dataclass(frozen=True)
class Published:
    """Where a site and what it is made from can be had. Both addresses end in a slash, or are empty."""

    url: str = ""
    """Address of the site's first page."""
    repository: str = ""
    """Address of the repository, at a host that serves `edit/main/PATH` and `issues/new`."""

    def edit(self, file: str) -> str:
        """Where a file of the repository can be changed; empty without a repository."""
        return f"{self.repository}edit/main/{file}" if self.repository else ""

    def report(self, title: str) -> str:
        """Where a fault can be reported; empty without a repository."""
        return f"{self.repository}issues/new?title={quote(title)}" if self.repository else ""


UNPUBLISHED = Published()
"""A site that lies in a folder."""


def published(url: str | None, repository: str | None) -> Published:
    """The addresses as somebody typed them.

    Raises:
        AtlasError: one is not the address of a site.
    """
    for option, given in (("--url", url), ("--repository", repository)):
        if given and not _ADDRESS.fullmatch(given):
            raise AtlasError(f"{option} is an address such as https://example.org/atlas/, got {given!r}")
    return Published(*(f"{given.rstrip('/')}/" if given else "" for given in (url, repository)))
