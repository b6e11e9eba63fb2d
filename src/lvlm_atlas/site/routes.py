"""Where each page lies, and how one page links to another."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.rules.check import all_rules

FOLDERS = {
    "technique": "techniques", "stage": "stages", "family": "families", "bound": "bounds", "paper": "papers",
    "model": "models", "device": "devices", "system": "systems", "rule": "rules", "runtime": "runtimes",
}  # fmt: skip
"""Folder of the pages of each kind of thing."""
RECORDS = {
    "model": "models", "device": "hardware", "workload": "workloads", "system": "systems", "runtime": "runtimes",
}  # fmt: skip
"""Where the atlas keeps the records that are no techniques."""
FIXED = {
    "home": "index.md",
    "matrix": "matrix.md",
    "ask": "tools/ask.md",
    "compare": "tools/compare.md",
    "stack": "tools/stack.md",
    "pairs": "tools/pairs.md",
    "graph": "tools/graph.md",
    "plots": "tools/plots.md",
    "glossary": "glossary.md",
    "tags": "tags.md",
    "workloads": "workloads.md",
    "results": "results.md",
    "curves": "curves.md",
    "coverage": "coverage.md",
    "changes": "changes.md",
    "plan": "guide/plan.md",
    "survey": "guide/survey-numbers.md",
    "estimate": "guide/estimate.md",
    "under-load": "guide/under-load.md",
    "query": "guide/query.md",
    "contribute": "guide/contribute.md",
    "reference": "guide/reference.md",
    "about": "guide/about.md",
} | {f"{kind}s": f"{folder}/index.md" for kind, folder in FOLDERS.items()}
"""Pages that there is one of."""


@dataclass(frozen=True)
class Routes:
    """Paths of all pages, as Markdown files under the docs folder."""

    paths: Mapping[tuple[str, str], str]
    """By kind and id; the kind of a page that there is one of is `page`."""

    def path(self, kind: str, id_: str) -> str:
        """The page of a thing: its own, else the one of its kind, which is the glossary for terms."""
        return self.paths.get((kind, id_)) or FIXED["workloads" if kind == "workload" else "glossary"]

    def anchor(self, kind: str, id_: str) -> str:
        """The place in that page: none if the page is the thing's own."""
        return "" if (kind, id_) in self.paths else f"#{kind}-{id_}"

    def markdown(self, here: str, kind: str, id_: str) -> str:
        """The link from page `here` as Markdown writes it, to be checked by the site's builder."""
        return relative(here, self.path(kind, id_)) + self.anchor(kind, id_)

    def html(self, here: str, kind: str, id_: str) -> str:
        """The same link as the built page needs it, for drawings."""
        return relative(here, built(self.path(kind, id_))) + self.anchor(kind, id_)


def routes(atlas: Atlas) -> Routes:
    """The routes of an atlas. Ids give paths, so that a page stays where it is as long as its id lives."""
    paths = {("page", name): path for name, path in FIXED.items()}
    paths |= {("technique", id_): f"techniques/{_file(id_)}.md" for id_ in (*atlas.techniques, *atlas.redirects)}
    paths |= {("model", id_): f"models/{_file(id_)}.md" for id_ in atlas.models}
    paths |= {("device", id_): f"devices/{_file(id_)}.md" for id_ in atlas.hardware}
    paths |= {("system", id_): f"systems/{_file(id_)}.md" for id_ in atlas.systems}
    paths |= {("runtime", id_): f"runtimes/{_file(id_)}.md" for id_ in atlas.runtimes}
    for kind in ("stage", "bound", "family"):
        paths |= {(kind, term.id): _term_path(kind, term.id) for term in atlas.vocabularies[kind].terms}
    paths |= {("rule", rule.id): f"rules/{_file(rule.id)}.md" for rule in all_rules()}
    paths |= {("paper", key): f"papers/{slug}.md" for key, slug in _slugs(atlas.papers)}
    return Routes(paths)


def _term_path(kind: str, id_: str) -> str:
    """A subfamily `a.b` lies below its family: `a/b.md`, and the family at `a/index.md`."""
    if kind != "family":
        return f"{FOLDERS[kind]}/{_file(id_)}.md"
    return f"families/{id_.replace('.', '/')}.md" if "." in id_ else f"families/{id_}/index.md"


def _file(id_: str) -> str:
    """The id as a file's name; `index` is taken."""
    return "index_" if id_ == "index" else id_


def _slugs(keys: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Keys as file names that differ on every file system."""
    taken = {"index"}
    for key in keys:
        stem = slug = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-") or "paper"
        number = 2
        while slug in taken:
            slug, number = f"{stem}-{number}", number + 1
        taken.add(slug)
        yield key, slug


def relative(here: str, there: str) -> str:
    """The way from one page to another."""
    return posixpath.relpath(there, posixpath.dirname(here) or ".")


def built(path: str) -> str:
    """The HTML file of a Markdown page."""
    return path.removesuffix(".md") + ".html"
