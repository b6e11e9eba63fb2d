"""Relations as the catalog grows: edges stored and predicted, and the site that shows them."""

from __future__ import annotations

import gc
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.predicted import predicted_edges
from lvlm_atlas.site.build import build
from synthetic import varied

SITE_FILES = {"atlas.json.gz": 1.0, "assets/find-data.js": 3.0}
"""Files of the site that grow with the catalog, and how large they may be, in MB."""


def relations(console: Console, count: int = 126) -> None:
    """Edges of made-up techniques of every shape, and the processor time that they take."""
    gc.set_threshold(50_000)  # as the command line does
    planner = Planner(kb=varied(Planner().kb.atlas, count))
    table = Table(title=f"relations of {count} techniques (targets: stored at most 5 a technique, predicted 4 s)")
    for column in ("edges", "number", "a technique", "processor s"):
        table.add_column(column, justify="left" if column == "edges" else "right")
    for name, edges in (("stored", lambda: planner.kb.edges), ("predicted", lambda: predicted_edges(planner))):
        begin = time.process_time()
        found = len(edges())
        spent = time.process_time() - begin
        table.add_row(name, f"{found:,}", f"{found / count:.1f}", f"{spent:.2f}")
    console.print(table)


def site(console: Console, count: int = 150) -> None:
    """Processor time of a build, and the size of what grows with pairs, for the catalog, with made-up techniques where
    it has fewer than so many.
    """
    kb = grown(Planner().kb, count)
    with tempfile.TemporaryDirectory() as folder:
        begin = _user_s()
        out = build(kb, Path(folder) / "site", docs=Path(folder) / "docs")
        pages_s, mkdocs_s = (end - start for start, end in zip(begin, _user_s(), strict=True))
        pages = sorted(page.stat().st_size for page in (out / "techniques").glob("*.html"))
        whole = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
        sizes = {name: (out / name).stat().st_size / 1e6 for name in SITE_FILES}
    table = Table(title=f"site of {len(kb)} techniques")
    for column in ("what", "found", "target"):
        table.add_column(column, justify="left" if column == "what" else "right")
    table.add_row("user s, pages + mkdocs", f"{pages_s:.1f} + {mkdocs_s:.1f}", "20")
    for name, most in SITE_FILES.items():
        table.add_row(f"{name}, MB", f"{sizes[name]:.1f}", f"{most:g}")
    table.add_row("whole site, MB", f"{whole:.1f}", "40")
    table.add_row("median page of a technique, kB", f"{pages[len(pages) // 2] / 1e3:.0f}", "")
    console.print(table)


def grown(kb: KnowledgeBase, count: int) -> KnowledgeBase:
    """The knowledge base with made-up techniques beside its own, so many in all, if it has fewer."""
    own = kb.atlas
    made = varied(own, max(0, count - len(own.techniques))).atlas
    paths = dict.fromkeys(made.techniques, own.paths["fastv"])
    return KnowledgeBase(replace(own, techniques={**own.techniques, **made.techniques}, paths={**own.paths, **paths}))


def _user_s() -> tuple[float, float]:
    """Processor time in user code so far: of this process, and of those it waited for."""
    return tuple(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


if __name__ == "__main__":
    relations(Console())
    site(Console())
