"""Pages of serving systems and lossless features of engines: what they decide, run on, move and report."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from lvlm_atlas.schema.field_docs import field_docs
from lvlm_atlas.schema.system import Simulated, System
from lvlm_atlas.schema.wording import written
from lvlm_atlas.site.content import FULL_WIDTH, Content, Page
from lvlm_atlas.site.markup import bare, code
from lvlm_atlas.site.routes import FIXED
from lvlm_atlas.site.simulations import load_asked

KINDS = {"serving-system": "Serving systems", "engine-feature": "Lossless features of engines"}
"""Headings of the list, by kind."""


def system_pages(content: Content) -> Iterator[Page]:
    """The list of systems and a page for each; none for a catalog without systems."""
    systems = sorted(content.atlas.systems.values(), key=lambda system: system.name.casefold())
    if not systems:
        return
    yield Page(
        path=FIXED["systems"], title="Serving systems", template="systems.md.j2", hide=FULL_WIDTH,
        description="Systems that schedule requests over devices, and features of engines that change no answer.",
        context={"groups": [(title, [s for s in systems if s.kind == kind]) for kind, title in KINDS.items()]},
    )  # fmt: skip
    for system in systems:
        yield _system_page(content, system)


def _system_page(content: Content, system: System) -> Page:
    path = content.routes.path("system", system.id)
    return Page(
        path=path, title=system.name, template="system.md.j2", hide=("toc",),
        description=bare(system.summary),
        context={
            "system": system,
            "layouts": [(each, rules_of(each)) for each in system.simulated],
            "asked": load_asked(),
            "paper": content.atlas.papers[system.paper],
            "transfers": [(transfer, _formula(transfer.byte)) for transfer in system.communication],
            "stem": path.rpartition("/")[2].removesuffix(".md"),
            "file": f"catalog/systems/{system.id}.yaml",
        },
    )  # fmt: skip


def rules_of(layout: Simulated) -> list[tuple[str, Markup]]:
    """The rules of a layout that are not those of a plain server: what each says, and how it is set."""
    docs = field_docs(Simulated)
    words = {True: "yes", False: "no"}
    return [
        (docs[name], code(words[value] if isinstance(value, bool) else str(value)))
        for name, field in Simulated.model_fields.items()
        if name not in ("name", "variant", "pools", "departs") and (value := getattr(layout, name)) != field.default
    ]


def _formula(amount: float | str) -> Markup:
    return code(written(amount))
