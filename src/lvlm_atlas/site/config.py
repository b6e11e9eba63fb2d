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
REFERENCES = ("results", "coverage", "rules", "glossary", "tags")
TOOLS = ("compare", "stack")
GUIDES = ("query", "plan", "estimate", "survey", "contribute", "reference", "about")
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
    """Every page once, under the heading where a reader would look."""
    titles = {page.path: page.title for page in pages}

    def entry(path: str) -> dict[str, Any]:
        return {attribute(titles[path]): path}

    def term(kind: str, id_: str) -> dict[str, Any]:
        return entry(content.routes.path(kind, id_))

    atlas, stages = content.atlas, content.atlas.terms("stage")
    techniques: list[Any] = [FIXED["techniques"]]
    for stage in stages:
        if members := content.of_stage(stage.id):
            techniques.append({attribute(stage.name): [term("technique", t.id) for t in members]})
    if split := [page.path for page in pages if page.template == "split.md.j2"]:
        techniques.append({"Former ids": [entry(path) for path in split]})
    if atlas.systems:
        systems = sorted(atlas.systems.values(), key=lambda system: (system.kind != "serving-system", system.name))
        techniques.append({"Serving systems": [FIXED["systems"], *(term("system", s.id) for s in systems)]})
    families: list[Any] = [FIXED["familys"]]
    for family in atlas.terms("family"):
        if not family.parent:
            below = [term("family", sub.id) for sub in content.families(parent=family.id)]
            own = content.routes.path("family", family.id)
            families.append({attribute(family.name): [own, *below]} if below else entry(own))

    def records(kind: str, ids: Iterable[str]) -> list[Any]:
        return [FIXED[f"{kind}s"], *(term(kind, id_) for id_ in ids)]

    papers = [FIXED["papers"], *(term("paper", key) for key in atlas.papers)]
    return [
        {"Home": FIXED["home"]},
        {"Matrix": FIXED["matrix"]},
        {"Techniques": techniques},
        {"Stages": [FIXED["stages"], *(term("stage", t.id) for t in stages)]},
        {"Bottlenecks": [FIXED["bounds"], *(term("bound", t.id) for t in atlas.terms("bound"))]},
        {"Families": families},
        {"Models": [*records("model", content.estimates.models), {"Workloads": FIXED["workloads"]}]},
        {"Devices": records("device", atlas.hardware)},
        {"Reference": [{"Papers": papers}, *(entry(FIXED[name]) for name in REFERENCES if FIXED[name] in titles)]},
        {"Tools": [entry(FIXED[name]) for name in TOOLS if FIXED[name] in titles]},
        {"Guides": [entry(FIXED[name]) for name in GUIDES if FIXED[name] in titles]},
    ]


def redirects(content: Content) -> Mapping[str, str]:
    """Pages of former ids, to those of the ids that took their place."""
    paths = {}
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
