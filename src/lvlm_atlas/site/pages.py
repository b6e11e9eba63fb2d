"""From records to the list of pages. Every technique, stage, family, bound and paper has one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from markupsafe import Markup

from lvlm_atlas.atlas.atlas import SplitIdError
from lvlm_atlas.drafts.points import extension_points
from lvlm_atlas.graph.guide import guide
from lvlm_atlas.graph.results import ReportedResult, grouped, results
from lvlm_atlas.roofline import contract_fields
from lvlm_atlas.schema.record import refs_in
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import StageTerm, Term
from lvlm_atlas.site.choices import choices
from lvlm_atlas.site.content import FULL_WIDTH, Content, Page
from lvlm_atlas.site.coverage import coverage_page
from lvlm_atlas.site.curves import curves_page
from lvlm_atlas.site.devices import device_pages
from lvlm_atlas.site.doors import FEED, changed
from lvlm_atlas.site.effect import times
from lvlm_atlas.site.estimates import REFERENCE
from lvlm_atlas.site.glossary import glossary_page
from lvlm_atlas.site.kept_svg import kept_plot
from lvlm_atlas.site.markup import bare
from lvlm_atlas.site.models import model_pages
from lvlm_atlas.site.routes import FIXED
from lvlm_atlas.site.rules import rule_pages
from lvlm_atlas.site.runtimes import runtime_pages
from lvlm_atlas.site.survey import survey_page
from lvlm_atlas.site.systems import system_pages
from lvlm_atlas.site.technique import technique_page
from lvlm_atlas.site.tools import tool_pages
from lvlm_atlas.site.under_load import under_load_page
from lvlm_atlas.site.workloads import workloads_page


def pages(content: Content) -> tuple[Page, ...]:
    """All pages, in the order of the navigation."""
    return (
        _home(content),
        Page(path=FIXED["matrix"], title="Matrix", template="matrix.md.j2", hide=FULL_WIDTH,
             description="Stages, families and the techniques in them at one glance."),
        Page(path=FIXED["techniques"], title="Techniques", template="techniques.md.j2", hide=("toc",),
             description="All techniques in one table."),
        *(technique_page(content, technique) for technique in content.techniques),
        *_former(content),
        *runtime_pages(content),
        *system_pages(content),
        *under_load_page(content),
        Page(path=FIXED["stages"], title="Stages", template="stages.md.j2",
             description="The stages of inference and what limits them."),
        *_terms(content, "stage"),
        Page(path=FIXED["bounds"], title="Bottlenecks", template="bounds.md.j2",
             description="What can limit inference, and what relieves it.", context={"walls": walls(content)}),
        *_terms(content, "bound"),
        Page(path="families/index.md", title="Families", template="families.md.j2",
             description="The families of techniques, with those not yet described."),
        *_terms(content, "family"),
        Page(path=FIXED["papers"], title="Papers", template="papers.md.j2",
             description="Every work the atlas cites.", context={"cited": _cited(content)}),
        *_papers(content),
        *model_pages(content),
        *device_pages(content),
        workloads_page(content),
        *tool_pages(content),
        Page(path=FIXED["results"], title="Reported results", template="results.md.j2", hide=FULL_WIDTH,
             description="What sources report, those numbers together that can be compared.",
             context={"measures": measures(content), "kept_plot": partial(_kept_plot, content)}),
        *curves_page(content),
        *coverage_page(content),
        *rule_pages(content),
        Page(path=FIXED["changes"], title="What changed", template="changes.md.j2", hide=("toc",),
             description="Entries by the day of their last change, and how two editions differ.",
             context={"days": _by_day(content), "feed": FEED if content.published.url else ""}),
        glossary_page(content),
        Page(path=FIXED["tags"], title="Tags", template="tags.md.j2", searched=False),
        Page(path=FIXED["query"], title="Ask the atlas", template="query.md", context={"guide": guide(content.atlas)},
             description="The query language, for the shell and for Python."),
        Page(path=FIXED["plan"], title="Plan", template="plan.md",
             description="Where the time goes, what fits, and which techniques help: three questions worked out."),
        *survey_page(content),
        Page(path=FIXED["estimate"], title="Estimates for programs", template="estimate.md",
             description="The fields of an estimate as JSON, with units and meanings.",
             context={"contract": {"format": contract_fields.FORMAT, "fields": contract_fields.FIELDS,
                                   "operators": contract_fields.OPERATOR_FIELDS,
                                   "errors": contract_fields.COMMAND_FIELDS}}),
        Page(path=FIXED["contribute"], title="Contribute", template="contribute.md",
             description="Add or repair an entry, from the first command to the page."),
        Page(path=FIXED["reference"], title="Write a reference in 20 minutes", template="reference.md",
             context={"points": tuple(extension_points().values())},
             description="From a paper's formula to a torch reference that runs and is checked."),
        Page(path=FIXED["about"], title="About the data", template="about.md",
             description="What is reported, derived and measured, and how to cite."),
    )  # fmt: skip


def _by_day(content: Content) -> dict[str, list[Technique]]:
    days: dict[str, list[Technique]] = defaultdict(list)
    for technique in changed(content):
        days[technique.updated].append(technique)
    return days


def measures(content: Content) -> list[tuple[str, Term, list[tuple[ReportedResult, ...]]]]:
    """Each benchmark and metric of which a number is reported: its kind, the term, its results by model."""
    by_measure: dict[tuple[str, str], list[tuple[ReportedResult, ...]]] = defaultdict(list)
    for group in grouped(results(content.atlas, content.techniques)):
        by_measure[group[0].kind, group[0].measure].append(group)
    return [(kind, content.atlas.term(kind, id_), groups) for (kind, id_), groups in by_measure.items()]


def _kept_plot(content: Content, group: Sequence[ReportedResult], id_: str) -> Markup | None:
    """The drawing of a group, of a benchmark only: times and bytes are compared by their factor, not by tokens."""
    if group[0].kind != "benchmark":
        return None
    return kept_plot(group, lambda technique: content.atlas.techniques[technique].name, id_=id_)


def walls(content: Content) -> list[tuple[Term, Term, list[Technique]]]:
    """Each stage with each bound that limits it or that some technique relieves there.

    With those techniques, the ones filed under the stage first.
    """
    rows = []
    for stage in content.atlas.terms("stage"):
        own = getattr(stage, "bound", None)
        relieved = {r.bound for t in content.techniques for r in t.relieves if r.stage == stage.id}
        for bound in content.atlas.terms("bound"):
            at = content.relieving(stage.id, bound.id) if bound.id in relieved else []
            if at or (bound.id == own and not relieved):
                rows.append((stage, bound, sorted(at, key=lambda t: t.stage != stage.id)))
    return rows


def _home(content: Content) -> Page:
    goals: dict[str, list[str]] = defaultdict(list)
    for stage in content.atlas.terms("stage"):
        if isinstance(stage, StageTerm) and stage.metric:
            goals[stage.metric].append(stage.id)
    where = content.estimates.of(REFERENCE) if content.estimates.holds(REFERENCE) else None
    return Page(
        path=FIXED["home"], title="LVLM Atlas", template="home.md.j2", hide=FULL_WIDTH,
        description="An executable knowledge base of efficient inference for large vision-language models.",
        context={"walls": walls(content), "goals": goals, "where": where,
                 "where_picture": times(content, where) if where else Markup()},
    )  # fmt: skip


def _terms(content: Content, kind: str) -> Iterator[Page]:
    for term in content.atlas.terms(kind):
        if kind == "family" and term.parent:
            continue
        yield _term(content, kind, term)
        if kind == "family":
            yield from (_term(content, kind, sub) for sub in content.families(parent=term.id))


def _term(content: Content, kind: str, term: Term) -> Page:
    return Page(
        path=content.routes.path(kind, term.id), title=term.name or term.id, template=f"{kind}.md.j2",
        description=bare(term.definition or ""), hide=("toc",) if kind == "family" else (),
        context={"term": term, "choices": partial(choices, content),
                 "reference": REFERENCE if content.estimates.holds(REFERENCE) else None},
    )  # fmt: skip


def _former(content: Content) -> Iterator[Page]:
    """A page for each id that was split: it lets the reader choose. Renamed ones are redirects."""
    for old in content.atlas.redirects:
        try:
            content.atlas.technique(old)
        except SplitIdError:
            yield Page(
                path=content.routes.path("technique", old), title=f"{old} (split)", template="split.md.j2",
                context={"old": old, "new": final(content, old)},
                description=f"The id {old} was split.",
            )  # fmt: skip


def final(content: Content, old: str) -> list[str]:
    """The techniques that a former id leads to in the end."""
    redirects = content.atlas.redirects
    ends: list[str] = []
    for new in redirects[old]:
        ends += final(content, new) if new in redirects else [new]
    return list(dict.fromkeys(ends))


def _cited(content: Content) -> dict[str, list[Technique]]:
    """Which techniques' entries cite each work, by key."""
    by_paper: dict[str, list[Technique]] = {key: [] for key in content.atlas.papers}
    for technique in content.techniques:
        for key in _papers_of(technique):
            if key in by_paper:
                by_paper[key].append(technique)
    return by_paper


def _papers_of(technique: Technique) -> Iterable[str]:
    return sorted({id_ for _, to, id_ in refs_in(technique) if to == "paper"})


def _papers(content: Content) -> Iterator[Page]:
    cited = _cited(content)
    words = defaultdict(list)
    for name in content.atlas.vocabularies:
        for term in content.atlas.terms(name):
            if term.source:
                words[term.source.paper].append((name, term.id))
    for key, paper in content.atlas.papers.items():
        introduces = [t for t in content.techniques if key in (t.paper, *t.also)]
        yield Page(
            path=content.routes.path("paper", key), title=paper.title, template="paper.md.j2",
            description=f"{paper.title} ({paper.year})",
            context={"paper": paper, "introduces": introduces, "words": words[key],
                     "systems": [s for s in content.atlas.systems.values() if key in (s.paper, *s.also)],
                     "cites": [t for t in cited[key] if t not in introduces]},
            searched=not introduces,
        )  # fmt: skip
