"""What pages are made of: the knowledge base as they see it, a page before it is rendered, and its links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from markupsafe import Markup

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.coverage import Covered, coverage
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.schema.survey_list import SurveyList
from lvlm_atlas.schema.system import System
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import FamilyTerm, Term
from lvlm_atlas.site.data import Data
from lvlm_atlas.site.estimates import Estimates
from lvlm_atlas.site.loads import Loads
from lvlm_atlas.site.markup import plain
from lvlm_atlas.site.published import UNPUBLISHED, Published
from lvlm_atlas.site.routes import FIXED, RECORDS, Routes, relative, routes
from lvlm_atlas.site.svg import stage_number

FULL_WIDTH = ("navigation", "toc")
"""What a page hides to have the whole width."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page: where it lies, what it is called, and the template that makes it."""

    path: str
    title: str
    template: str
    description: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    """Parts of the theme that the page leaves out."""
    searched: bool = True
    """Whether the search finds it as a page; what it holds may be found by name all the same."""


@dataclass(frozen=True)
class Content:
    """The knowledge base as the pages see it."""

    kb: KnowledgeBase
    published: Published = UNPUBLISHED
    python: bool = False
    """Whether the site has the program itself in it, to be run in the page."""

    @property
    def atlas(self) -> Atlas:
        """Its records."""
        return self.kb.atlas

    @cached_property
    def under_load(self) -> Loads:
        """Servers under load, as pages show them."""
        return Loads(self.kb)

    @cached_property
    def routes(self) -> Routes:
        """Where its pages lie."""
        return routes(self.atlas)

    @cached_property
    def data(self) -> Data:
        """Which version it is."""
        return Data(self.kb)

    @cached_property
    def estimates(self) -> Estimates:
        """What the roofline predicts."""
        return Estimates(self.kb)

    @cached_property
    def stage_classes(self) -> Mapping[str, str]:
        """The CSS class that gives a stage its colour, by id."""
        return {name: f"la-s{stage_number(self.atlas, name)}" for name in STAGES}

    @cached_property
    def techniques(self) -> tuple[Technique, ...]:
        """All techniques, by stage, place in the pipeline and name."""
        stages = [term.id for term in self.atlas.terms("stage")]
        return tuple(
            sorted(
                self.atlas.techniques.values(),
                key=lambda t: (stages.index(t.stage), self.atlas.place(t), t.name.casefold(), t.id),
            )
        )

    def of_stage(self, stage: str) -> list[Technique]:
        """Techniques filed under a stage."""
        return [t for t in self.techniques if t.stage == stage]

    def of_family(self, family: str) -> list[Technique]:
        """Techniques of a family and of the subfamilies below it."""
        narrower = self.atlas.narrower("family", family)
        return [t for t in self.techniques if t.family in narrower]

    def relieving(self, stage: str | None, bound: str | None) -> list[Technique]:
        """Techniques that relieve a bound (or one below it) at a stage; None means any."""
        bounds = self.atlas.narrower("bound", bound) if bound else None
        return [
            t
            for t in self.techniques
            if any(stage in (None, r.stage) and (bounds is None or r.bound in bounds) for r in t.relieves)
        ]

    def savings(self, technique: Technique) -> list[tuple[str, list[str]]]:
        """What a technique relieves: each bound with the stages at which it does."""
        by_stage: dict[str, list[str]] = {}
        for relief in technique.relieves:
            by_stage.setdefault(relief.bound, []).append(relief.stage)
        return list(by_stage.items())

    def reaching(self, stage: str) -> list[Technique]:
        """Techniques filed elsewhere that relieve a bound of this stage."""
        return [t for t in self.relieving(stage, None) if t.stage != stage]

    def filed_under(self, family: str) -> list[Technique]:
        """Techniques of exactly this family."""
        return [t for t in self.techniques if t.family == family]

    def families(self, *, stage: str | None = None, parent: str | None = None) -> list[Term]:
        """The families of a stage, those of any stage with techniques in it among them; or a family's subfamilies."""
        if parent:
            return [term for term in self.atlas.terms("family") if term.parent == parent]
        here = {self.atlas.root_family(technique) for technique in self.of_stage(stage)} if stage else set()
        return [
            term
            for term in self.atlas.terms("family")
            if isinstance(term, FamilyTerm) and not term.parent
            and (term.stage == stage or (term.any_stage and term.id in here))
        ]  # fmt: skip

    def systems_of(self, family: str) -> list[System]:
        """Serving systems of a family and of the subfamilies below it."""
        narrower = self.atlas.narrower("family", family)
        return [system for system in self.atlas.systems.values() if system.family in narrower]

    def systems_at(self, stage: str) -> int:
        """How many serving systems the families of a stage have."""
        return sum(len(self.systems_of(family.id)) for family in self.families(stage=stage))

    def places(self, stage: str) -> list[Term]:
        """The places of the pipeline that lie in a stage."""
        return [term for term in self.atlas.terms("position") if getattr(term, "stage", None) == stage]

    def below(self, kind: str, id_: str) -> list[Term]:
        """The terms directly below one."""
        return [term for term in self.atlas.terms(kind) if term.parent == id_]

    @cached_property
    def own_bounds(self) -> frozenset[str]:
        """The bounds that limit a stage in general."""
        bounds = (getattr(stage, "bound", None) for stage in self.atlas.terms("stage"))
        return frozenset(bound for bound in bounds if bound)

    def has_page(self, kind: str, id_: str) -> bool:
        """Whether a term has a page of its own, beside its place in the glossary."""
        return (kind, id_) in self.routes.paths

    @cached_property
    def coverage(self) -> tuple[tuple[SurveyList, tuple[Covered, ...]], ...]:
        """The published lists, each with its rows."""
        return tuple((list_, coverage(self.atlas, list_)) for list_ in self.atlas.lists.values())

    def listed(self, technique: str) -> list[tuple[SurveyList, Covered]]:
        """The rows of a technique in those lists."""
        return [(list_, row) for list_, rows in self.coverage for row in rows if row.work.technique == technique]

    @cached_property
    def families_filled(self) -> tuple[int, int]:
        """How many of the survey's finest families have a described technique or system, and how many there are."""
        families = [f for f in self.atlas.terms("family") if not (isinstance(f, FamilyTerm) and f.any_stage)]
        leaves = [f.id for f in families if not self.below("family", f.id)]
        return sum(bool(self.of_family(leaf) or self.systems_of(leaf)) for leaf in leaves), len(leaves)


@dataclass(frozen=True)
class Links:
    """The links of one page to others."""

    content: Content
    here: str

    def link(self, kind: str, id_: str, label: object = None) -> Markup:
        """A Markdown link to a thing, by default with its name."""
        shown = label if isinstance(label, Markup) else plain(self.name(kind, id_) if label is None else label)
        return Markup("[") + shown + Markup(f"]({self.content.routes.markdown(self.here, kind, id_)})")  # noqa: S704

    def cite(self, key: str, place: str | None = None) -> Markup:
        """A work as people cite it, `Chen et al. 2024, sec. 3`, linked to its page."""
        link = self.link("paper", key, self.author_year(key))
        return link + Markup(", ") + plain(place) if place else link

    def author_year(self, key: str) -> str:
        """A work as people cite it, `Chen et al. 2024`, without a link."""
        paper = self.content.atlas.papers[key]
        last = paper.authors[0].split(",")[0] if paper.authors else paper.title
        return f"{last}{' et al.' if len(paper.authors) > 1 else ''} {paper.year}"

    def page(self, name: str, label: str, anchor: str = "") -> Markup:
        """A Markdown link to a page that there is one of."""
        return Markup(f"[{plain(label)}]({relative(self.here, FIXED[name])}{anchor})")  # noqa: S704

    def href(self, kind: str, id_: str) -> str:
        """The address of a thing as the built page needs it, for HTML and drawings."""
        return self.content.routes.html(self.here, kind, id_)

    def name(self, kind: str, id_: str) -> str:
        """What a thing is called."""
        atlas = self.content.atlas
        if kind == "technique":
            return atlas.techniques[id_].name if id_ in atlas.techniques else id_
        if kind == "paper":
            return atlas.papers[id_].title
        if kind == "rule":
            return id_
        if kind in RECORDS:
            return str(getattr(atlas, RECORDS[kind])[id_].name)
        return atlas.term(kind, id_).name or id_
