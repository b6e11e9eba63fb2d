"""The builder's configuration: the hand-written part, with the navigation and the redirects of this atlas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lvlm_atlas.atlas.atlas import SplitIdError
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.site.content import Content, Page
from lvlm_atlas.site.markup import attribute, external
from lvlm_atlas.site.routes import FIXED

Nav = list[dict[str, Any]]
REFERENCES = ("results", "curves", "coverage", "papers", "glossary", "changes")
TOOLS = ("ask", "compare", "stack", "pairs", "graph", "plots")
"""Pages that scripts fill."""
GUIDES = ("query", "plan", "estimate", "under-load", "survey", "contribute", "reference", "about")
"""Pages under that heading; an atlas of somebody else may lack what one of them is about."""


def configuration(content: Content, pages: Sequence[Page], base: Path, site_dir: str) -> str:
    """`mkdocs.yml` as text."""
    settings = yaml.safe_load(base.read_text(encoding="utf-8"))
    plugins = [
        {"redirects": {"redirect_maps": dict(redirects(content))}} if plugin == "redirects" else plugin
        for plugin in settings["plugins"]
    ]
    settings |= {
        "docs_dir": "pages",
        "site_dir": site_dir,
        "nav": navigation(content, pages),
        "plugins": plugins,
        "copyright": _footer(content),
    }
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120)


def navigation(content: Content, pages: Sequence[Page]) -> Nav:
    """Every page once, under the heading where a reader would look; works are listed by their own page."""
    titles = {page.path: page.title for page in pages}

    def entry(path: str) -> dict[str, Any]:
        return {attribute(titles[path]): path}

    def term(kind: str, id_: str) -> dict[str, Any]:
        return entry(content.routes.path(kind, id_))

    atlas = content.atlas
    techniques: list[Any] = [FIXED["techniques"], *_stages(content)]
    if split := [page.path for page in pages if page.template == "split.md.j2"]:
        techniques.append({"Former ids": [entry(path) for path in split]})

    def records(kind: str, ids: Iterable[str]) -> list[Any]:
        return [FIXED[f"{kind}s"], *(term(kind, id_) for id_ in ids)]

    browse = [
        {"Matrix": FIXED["matrix"]}, {"Stages": FIXED["stages"]}, {"Families": FIXED["familys"]},
        {"Bottlenecks": [FIXED["bounds"], *(term("bound", t.id) for t in atlas.terms("bound"))]},
        {"Tags": FIXED["tags"]},
    ]  # fmt: skip
    tools = [entry(FIXED[name]) for name in TOOLS if FIXED[name] in titles]
    systems = sorted(atlas.systems.values(), key=lambda system: (system.kind != "serving-system", system.name))
    models = [*records("model", content.estimates.models), {"Workloads": FIXED["workloads"]}]
    return [
        {"Home": FIXED["home"]},
        {"Techniques": techniques},
        {"Browse": browse},
        *([{"Tools": tools}] if tools else []),
        {"Models": models},
        {"Devices": records("device", atlas.hardware)},
        *([{"Runtimes": records("runtime", atlas.runtimes)}] if atlas.runtimes else []),
        *([{"Serving systems": records("system", (system.id for system in systems))}] if systems else []),
        {"Reference": [*(entry(FIXED[name]) for name in REFERENCES if FIXED[name] in titles),
                       {"Rules": FIXED["rules"]}]},
        {"Guides": [entry(FIXED[name]) for name in GUIDES if FIXED[name] in titles]},
    ]  # fmt: skip


def _stages(content: Content) -> Nav:
    """Each stage with its families, and those with their techniques, so that a page shows its neighbours alone."""
    route, nav, placed = content.routes.path, [], set[str]()

    def listed(family: str, stage: str) -> list[Any]:
        here = [t for t in content.filed_under(family) if t.stage == stage]
        page = [] if family in placed else [route("family", family)]  # one of several stages has one page all the same
        placed.add(family)
        below = [{attribute(sub.name): listed(sub.id, stage)} for sub in content.families(parent=family)]
        return [*page, *below, *({attribute(t.name): route("technique", t.id)} for t in here)]

    for stage in content.atlas.terms("stage"):
        families = [{attribute(f.name): listed(f.id, stage.id)} for f in content.families(stage=stage.id)]
        nav.append({attribute(stage.name): [route("stage", stage.id), *families]})
    rest = [f for f in content.atlas.terms("family") if not f.parent and f.id not in placed]
    return nav + [{attribute(f.name): listed(f.id, "")} for f in rest]


def redirects(content: Content) -> Mapping[str, str]:
    """Pages of former ids, to those of the ids that took their place."""
    paths = {"rules.md": FIXED["rules"]}
    for old in content.atlas.redirects:
        try:
            new = content.atlas.technique(old)
        except SplitIdError:
            continue
        paths[content.routes.path("technique", old)] = content.routes.path("technique", new.id)
    for kind in ("stage", "bound", "family"):
        for term in content.atlas.vocabularies[kind].terms:
            if not term.gone:
                continue
            try:
                target = content.routes.path(kind, content.atlas.term(kind, term.id).id)
            except AtlasError:
                target = FIXED[f"{kind}s"]  # it was split: the list has its parts
            paths[content.routes.path(kind, term.id)] = target
    return paths


def _footer(content: Content) -> str:
    """Says on every page which data it shows."""
    survey = content.data.survey
    name = f"arXiv {survey.arxiv}" if survey.arxiv else survey.title
    data = attribute(str(content.kb.edition))
    return f"Data of {data}. Covers the survey {external(survey.url, name)} ({survey.year})."
