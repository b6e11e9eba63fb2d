"""What the search in the page looks through: of every page its names, what it is about, and its words.

What published lists name and the atlas lacks is in it too, so that a search says so instead of finding nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import unescape

from lvlm_atlas.atlas.bibliography import Paper
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import Term
from lvlm_atlas.site.content import Content, Page
from lvlm_atlas.site.markup import bare
from lvlm_atlas.site.routes import FIXED, built

DATA = "assets/find-data.js"
Row = tuple[str, str, str, Sequence[str], str, str]
"""Address below the site's root, title, kind, further names, what it is about in a sentence, further words."""
_KINDS = {"bound": "bottleneck"}
_MOST = 4000
"""Letters of a page's text that are searched: guides are long, and their headings come early."""


def find_data(content: Content, pages: Sequence[Page], texts: Mapping[str, str]) -> str:
    """The data as a script, which also loads where there is no server. `texts` holds pages as Markdown, by path."""
    rows = [*_records(content), *_others(content, pages, texts), *_words(content), *_missing(content)]
    body = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    return f"window.lvlmAtlasFind=[\n{body}\n];\n"


def _records(content: Content) -> Iterator[Row]:
    """Techniques, models, devices, systems, workloads and works."""
    atlas = content.atlas

    def address(kind: str, id_: str) -> str:
        return built(content.routes.path(kind, id_)) + content.routes.anchor(kind, id_)

    for t in content.techniques:
        former = [old for old, new in atlas.redirects.items() if t.id in new]
        yield (address("technique", t.id), t.name, "technique",
               _names(t.name, t.id, *t.aliases, *former, atlas.papers[t.paper].title),
               bare(t.summary), _technique_words(content, t))  # fmt: skip
    for model in atlas.models.values():
        yield (address("model", model.id), model.name, "model", _names(model.name, model.id, *model.aliases),
               f"{model.llm.name} with {model.vision.name}", "")  # fmt: skip
    for device in atlas.hardware.values():
        yield (address("device", device.id), device.name, "device", _names(device.name, device.id, *device.aliases),
               f"{device.vendor}, {device.year}", "")  # fmt: skip
    for runtime in atlas.runtimes.values():
        yield (address("runtime", runtime.id), runtime.name, "runtime",
               _names(runtime.name, runtime.id, *runtime.aliases), bare(runtime.summary), "")  # fmt: skip
    for system in atlas.systems.values():
        yield (address("system", system.id), system.name, "system", _names(system.name, system.id, *system.aliases),
               bare(system.summary), bare(system.explanation))  # fmt: skip
    for workload in atlas.workloads.values():
        yield (address("workload", workload.id), workload.name, "workload", _names(workload.name, workload.id),
               bare(workload.description), "")  # fmt: skip
    introduced = {key for t in content.techniques for key in (t.paper, *t.also)}
    for key, paper in atlas.papers.items():
        if key not in introduced:  # else its title must lead to the technique, whose words have it too
            yield (address("paper", key), paper.title, "paper", [key], "", _paper_words(paper))


def _others(content: Content, pages: Sequence[Page], texts: Mapping[str, str]) -> Iterator[Row]:
    """Stages, families and bottlenecks, guides and lists."""
    kinds = {content.routes.path(kind, term.id): (kind, term) for kind in ("stage", "family", "bound")
             for term in content.atlas.terms(kind)}  # fmt: skip
    of_records = ("technique.md.j2", "model.md.j2", "device.md.j2", "runtime.md.j2", "system.md.j2", "paper.md.j2")
    for page in pages:
        if not page.searched or page.template in of_records:
            continue
        if page.path in kinds:
            kind, term = kinds[page.path]
            yield (built(page.path), page.title, _KINDS.get(kind, kind), _names(page.title, term.id, *term.aliases),
                   page.description, "")  # fmt: skip
        else:
            kind = {"guide": "guide", "rules": "rule"}.get(page.path.partition("/")[0], "page")
            yield (built(page.path), page.title, kind, [], page.description,
                   _text(texts[page.path]) if kind == "guide" else "")  # fmt: skip


def _words(content: Content) -> Iterator[Row]:
    """The terms that have no page of their own."""
    for kind in content.atlas.vocabularies:
        for term in content.atlas.terms(kind):
            if not content.has_page(kind, term.id):
                yield (built(FIXED["glossary"]) + f"#{kind}-{term.id}", term.name or term.id, "word",
                       _names(term.name or "", term.id, *term.aliases), bare(term.definition or ""), kind)  # fmt: skip


def _missing(content: Content) -> Iterator[Row]:
    """Works that a published list names and nobody has entered."""
    named: set[str] = set()
    for list_, rows in content.coverage:
        for row in rows:
            if row.state == "missing" and row.work.technique not in named:
                named.add(row.work.technique)
                yield (f"{built(FIXED['coverage'])}#{list_.id}", row.work.name, "not covered", [row.work.technique],
                       f"Named by {list_.name}; it has no entry here yet.", "")  # fmt: skip


def _names(title: str, *others: str) -> list[str]:
    """The other names, each once; the title itself is searched anyway, however it is cut into words."""
    return [name for name in dict.fromkeys(others) if name != title]


def _technique_words(content: Content, technique: Technique) -> str:
    """What a technique is found by besides its names: its place, how it saves, and the work it is from."""
    atlas = content.atlas
    terms: list[Term] = [
        atlas.term("family", technique.family),
        *(atlas.term("mechanism", m) for m in technique.mechanism),
    ]
    terms += [atlas.term("signal", id_) for id_ in technique.signals]
    said = [word for term in terms for word in (term.name or term.id, *term.aliases)]
    steps = (step.does for step in technique.algorithm)
    works = [_paper_words(atlas.papers[key]) for key in (technique.paper, *technique.also)]
    return bare(" ".join([*dict.fromkeys(said), *works, technique.explanation, *steps]))


def _paper_words(paper: Paper) -> str:
    return " ".join([paper.title, *(author.split(",")[0] for author in paper.authors), paper.arxiv or "", paper.key])


def _text(markdown: str) -> str:
    """A page's words, its headings first: without front matter, tags and targets of links."""
    body = markdown.split("---\n", 2)[-1]
    headings: Iterable[str] = re.findall(r"^#+ (.*?)(?:\{:.*)?$", body, re.MULTILINE)
    words = re.sub(r"\{:[^}]*\}|<[^>]*>|\]\([^)]*\)|[#*`|\[\]]", " ", " ".join([*headings, body]))
    return re.sub(r"\s+", " ", unescape(words)).strip()[:_MOST]
