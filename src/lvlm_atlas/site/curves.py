"""What the lab measured: the page of all techniques on its trained models, and the part of a technique's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

from markupsafe import Markup

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.results import results
from lvlm_atlas.planner.interest import WANTED
from lvlm_atlas.schema.curve import COST, Curve
from lvlm_atlas.schema.stack import VERDICTS, MeasuredStack
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.site.content import FULL_WIDTH, Content, Page
from lvlm_atlas.site.curve_svg import Line, curve_plot
from lvlm_atlas.site.equal_quality import equal_quality
from lvlm_atlas.site.routes import FIXED
from lvlm_atlas.site.trained import Trained, TrainedPart, trained, trained_part
from lvlm_atlas.specs.answers import (
    Kept,
    architecture_of,
    architectures_of,
    cheapest,
    elsewhere,
    kept,
    of_architecture,
    tasks_of,
)
from lvlm_atlas.survey.order import Agreement, agreement, between_models

WORDS: Mapping[str, str] = {
    "pixels": "pixels", "frames": "frames", "encoder_tokens": "tokens in the encoder",
    "vision_tokens": "vision tokens in the LLM", "score_entries": "attention scores", "kv_byte": "bytes of the cache",
    "kv_read": "cache entries read a step", "target_passes": "passes of the model for a token",
}  # fmt: skip
"""Costs as readers say them."""
NEAR = 0.25
"""Share of its cost at which techniques are compared."""
ENOUGH = 0.95
"""Share of the answers that counts as kept."""
SPARED = 0.98
"""Share of its cost that a technique must come below, at some setting, to be compared by it."""
LINES = 4
"""Lines of a plot beside the baselines'."""


@dataclass(frozen=True)
class Row:
    """One technique in the table of a cost."""

    technique: Technique
    curve: Curve
    all_: tuple[Kept, ...]
    """Its settings, over all tasks."""
    near: Kept
    """The setting whose cost is nearest to `NEAR`."""
    by_task: Mapping[str, Kept]
    """The same setting by task."""
    enough: Kept | None
    """The cheapest setting that keeps `ENOUGH`."""
    elsewhere: Mapping[str, Kept]
    """The same setting on models of other architectures, by architecture."""


@dataclass(frozen=True)
class Curves:
    """The curves of an atlas, as pages show them."""

    atlas: Atlas

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of any curve, in the order of the curve that has most."""
        known = sorted((tasks_of(curve) for curve in self.atlas.curves.values()), key=len, reverse=True)
        return tuple(dict.fromkeys(task for tasks in known for task in tasks))

    @cached_property
    def by_cost(self) -> Mapping[str, list[Row]]:
        """Rows by the cost that a technique moves most, those that keep most at `NEAR` first."""
        tables: dict[str, list[Row]] = {cost: [] for cost in COST}
        for id_, curve in self.atlas.curves.items():
            settings = kept(curve)
            if settings and min(each.cost[curve.main_cost] for each in settings) < SPARED:
                near = min(settings, key=lambda each: abs(each.cost[curve.main_cost] - NEAR))
                by_task = {
                    task: each
                    for task in tasks_of(curve)
                    for each in kept(curve, (task,))
                    if each.setting == near.setting
                }
                technique = self.atlas.techniques[id_]
                row = Row(technique, curve, settings, near, by_task, cheapest(curve, ENOUGH), elsewhere(curve, near))
                tables[curve.main_cost].append(row)
        for rows in tables.values():
            rows.sort(key=lambda row: (-row.near.share, row.technique.id))
        return {cost: rows for cost, rows in tables.items() if rows}

    @cached_property
    def baselines(self) -> tuple[Row, ...]:
        """What others are held against, whatever it moves most."""
        rows = (row for rows in self.by_cost.values() for row in rows)
        return tuple(row for row in rows if self.atlas.is_baseline(row.technique))

    @cached_property
    def models(self) -> tuple[Trained, ...]:
        """The trained models that curves and stacks name, as far as they lie here."""
        alone = (id_ for curve in self.atlas.curves.values() for id_ in curve.checkpoints)
        named = dict.fromkeys((*alone, *(id_ for stack in self.stacks for id_ in stack.checkpoints)))
        known = trained(self.atlas.root)
        return tuple(known[id_] for id_ in named if id_ in known)

    @cached_property
    def elsewhere(self) -> Mapping[str, str]:
        """Architectures that only some techniques were run on, and whose they are."""
        dialect = {architecture_of(each.id): each.dialect for each in self.models}
        others = {name for curve in self.atlas.curves.values() for name in architectures_of(curve)[1:]}
        return {name: dialect[name] for name in sorted(others) if name in dialect}

    @cached_property
    def served(self) -> Mapping[str, set[str]]:
        """The tasks that were run on each model: those that it does well enough to tell anything."""
        found = dict[str, set[str]]()
        for curve in self.atlas.curves.values():
            for each in curve.tasks:
                found.setdefault(each.checkpoint, set()).add(each.task)
        return found

    @cached_property
    def parts(self) -> Mapping[str, tuple[TrainedPart, list[Technique]]]:
        """What was trained for techniques, by kind: as the first model has it, and the techniques that take it.

        What departs alike from papers stands together.
        """
        taken = dict[str, tuple[TrainedPart, list[Technique]]]()
        for id_, curve in self.atlas.curves.items():
            for part in self.parts_of(curve):
                taken.setdefault(part.kind, (part, []))[1].append(self.atlas.techniques[id_])
        return dict(sorted(taken.items(), key=lambda each: (each[1][0].departs, each[0])))

    def parts_of(self, curve: Curve) -> list[TrainedPart]:
        """What was trained for a technique, as the first model has it."""
        found = [part for id_ in sorted(curve.parts) if (part := trained_part(self.atlas.root, id_))]
        return [*{part.kind: part for part in reversed(found)}.values()]

    @cached_property
    def stacks(self) -> tuple[MeasuredStack, ...]:
        """Techniques together, those first that lose most beyond the sum."""
        return tuple(sorted(self.atlas.stacks.values(), key=lambda each: (-each.departure.value, each.id)))

    def plot(self, cost: str, id_: str) -> Markup:
        """The best techniques of a cost, and its baselines."""
        rows = self.by_cost[cost]
        best = [row for row in rows if not (self.atlas.is_baseline(row.technique) or row.curve.untuned)][:LINES]
        lines = [Line(row.technique.name, row.all_, f"la-k{number}") for number, row in enumerate(best)]
        others = [row for row in self.baselines if min(each.cost[cost] for each in row.all_) < SPARED]
        lines += [Line(row.technique.name, row.all_, f"la-k{LINES + number}") for number, row in enumerate(others)]
        return curve_plot(
            lines, cost, f"of the {WORDS[cost]}", id_=id_, title=f"Answers kept against {WORDS[cost]}",
            desc="Means over the tasks that each serves, with 95 % intervals; the table below has all techniques.",
        )  # fmt: skip

    def of(self, technique: Technique) -> tuple[Curve, Markup, list[TrainedPart]] | None:
        """The curve of a technique, its drawing by task, and what was trained for it; None where there is none."""
        curve = self.atlas.curves.get(technique.id)
        if curve is None or not kept(curve):
            return None
        lines = [Line("all tasks", kept(curve), "la-k0 la-mean")]
        lines += [
            Line(task, kept(curve, (task,)), f"la-k{1 + at % 7}", bars=False) for at, task in enumerate(tasks_of(curve))
        ]
        for name in architectures_of(curve)[1:]:
            if others := kept(of_architecture(curve, name)):
                lines.append(Line(f"all, on {name.removeprefix('lab-')}", others, "la-k0 la-mean la-elsewhere"))
        words = f"of the {WORDS[curve.main_cost]}"
        picture = curve_plot(
            lines, curve.main_cost, words, id_="la-answers", title=f"Answers kept with {technique.name}",
            desc=f"By task, against what is left {words}; measured on small models trained here.",
        )  # fmt: skip
        return curve, picture, self.parts_of(curve)

    @cached_property
    def agreement(self) -> Agreement:
        """How this order agrees with that of public comparisons."""
        return agreement(results(self.atlas, self.atlas.techniques.values()), self.atlas.curves)

    @cached_property
    def between_models(self) -> Mapping[str, float]:
        """How alike the trained models order what spares anything: means over pairs, `of one architecture` or not."""
        every = (row.curve for rows in self.by_cost.values() for row in rows)
        return by_architecture(between_models(every, NEAR), {each.id: each.dialect for each in self.models})


def by_architecture(correlations: Mapping[tuple[str, str], float], dialects: Mapping[str, str]) -> dict[str, float]:
    """Means over pairs of models `of one architecture` and `of two architectures`, of models whose dialect is known."""
    kinds: dict[str, list[float]] = {}
    for (one, two), correlation in correlations.items():
        if one in dialects and two in dialects:
            kind = "of one architecture" if dialects[one] == dialects[two] else "of two architectures"
            kinds.setdefault(kind, []).append(correlation)
    return {kind: mean(kinds[kind]) for kind in sorted(kinds)}


def curves_page(content: Content) -> Iterator[Page]:
    """The page of all techniques on one model; none where nothing was run."""
    curves = Curves(content.atlas)
    if curves.by_cost:
        yield Page(
            path=FIXED["curves"], title="All techniques on one model", template="curves.md.j2", hide=FULL_WIDTH,
            description="What every technique costs in answers, measured on small models trained on photographs.",
            context={"curves": curves, "words": WORDS, "near": NEAR, "enough": ENOUGH, "verdicts": VERDICTS,
                     "wanted": WANTED, "equal": equal_quality(content.estimates, ENOUGH)},
        )  # fmt: skip
