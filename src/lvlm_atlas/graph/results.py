"""Reported numbers of all techniques as rows that can be put side by side: by what was measured, model, tokens kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, cast

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.shelves import UnknownIdError, folded
from lvlm_atlas.fault import suggestion
from lvlm_atlas.graph.terms import term_named
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.reported import NOT_NAMED, Reported, Result
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import BenchmarkTerm, MetricTerm

MEASURES = ("benchmark", "metric")
"""Vocabularies of what a number can be of, in the order in which results are listed."""


@dataclass(frozen=True, kw_only=True)
class ReportedResult:
    """One number that a source prints of one technique."""

    technique: str
    """Id of the technique."""
    kind: Literal["benchmark", "metric"]
    """Whether it is a score or a metric of speed, memory or work."""
    measure: str
    """Id of the benchmark or metric."""
    model: str
    """Id of the model in the catalog, or its name as printed."""
    setting: Mapping[str, Setting]
    """Parameters that the source states."""
    tokens_kept: float | None
    """Vision tokens kept, where the source states their number."""
    share_kept: float | None
    """Share of the vision tokens kept, from 0 to 1, where the source states it or both numbers."""
    device: str | None
    """Hardware as printed."""
    data: str | None
    """Input that was measured, where it is not the benchmark itself."""
    value: float
    """The number as printed."""
    qualifier: str | None
    """`about`, `up-to` or `at-least`, if the source qualifies it."""
    unit: str
    """Unit of the value and the baseline."""
    baseline: float | None
    """The number of the unmodified model in the same source."""
    percent_of_baseline: float | None
    """The value in percent of the unmodified model's, from the baseline or a relative unit; of a score, the quality
    kept."""
    better: Literal["lower", "higher"]
    """Which direction is good."""
    paper: str
    """Key of the source."""
    place: str
    """Where in the source."""
    note: str | None
    """What else decides the number."""

    @property
    def group(self) -> tuple[str, str, str]:
        """What must agree for two results to be compared: kind, measure and model; names of models are folded."""
        return self.kind, self.measure, folded(self.model)


def results_of(atlas: Atlas, technique: Technique) -> tuple[ReportedResult, ...]:
    """The numbers that sources report of one technique, in the order of its entry."""
    return tuple(row for each in technique.reported for row in experiment_results(atlas, technique, each))


def experiment_results(atlas: Atlas, technique: Technique, experiment: Reported) -> tuple[ReportedResult, ...]:
    """The numbers of one experiment of a technique's entry."""
    return tuple(_row(atlas, technique, experiment, result) for result in experiment.results)


def results(
    atlas: Atlas,
    techniques: Iterable[Technique],
    *,
    benchmark: str | None = None,
    metric: str | None = None,
    model: str | None = None,
) -> tuple[ReportedResult, ...]:
    """The numbers that sources report, those of one benchmark or metric and of one model beside each other.

    In a group the most tokens kept come first. Numbers of several sources are all there, whether or not they agree.

    Args:
        atlas: where the words are defined.
        techniques: whose numbers.
        benchmark: id, name or alias of a benchmark; a broader one finds its parts. With `metric`, either will do.
        metric: id, name or alias of a metric.
        model: id, name or alias of a model of the catalog, or a name as a source prints it.

    Raises:
        UnknownIdError: no result is of that model; the message suggests the nearest.
        UnknownValueError: there is no such benchmark or metric; the message suggests the nearest.
    """
    rows = [row for technique in techniques for row in results_of(atlas, technique)]
    wanted = {
        (kind, id_)
        for kind, word in (("benchmark", benchmark), ("metric", metric))
        if word is not None
        for id_ in atlas.narrower(kind, term_named(atlas, kind, word, f"the {kind}"))
    }
    if wanted:
        rows = [row for row in rows if (row.kind, row.measure) in wanted]
    if model is not None:
        name = _model_named(atlas, model)
        rows = [row for row in rows if folded(row.model) == folded(name)]
    order = {(kind, term.id): place for kind in MEASURES for place, term in enumerate(atlas.terms(kind))}
    return tuple(sorted(rows, key=lambda row: (*_place(order, row), *_most_kept_first(row))))


def comparable(rows: Iterable[ReportedResult]) -> tuple[ReportedResult, ...]:
    """The results of those groups in which more than one technique is reported, in the order given.

    Results of models that their sources do not name are left out.
    """
    techniques = defaultdict(set)
    rows = tuple(row for row in rows if row.model != NOT_NAMED)
    for row in rows:
        techniques[row.group].add(row.technique)
    return tuple(row for row in rows if len(techniques[row.group]) > 1)


def grouped(rows: Iterable[ReportedResult]) -> Iterator[tuple[ReportedResult, ...]]:
    """Results in the order of `results`, in the groups that can be compared."""
    for _, group in groupby(rows, key=lambda row: row.group):
        yield tuple(group)


def term_of(atlas: Atlas, row: ReportedResult) -> BenchmarkTerm | MetricTerm:
    """What a number is of."""
    return _term(atlas, row.kind, row.measure)


def _row(atlas: Atlas, technique: Technique, experiment: Reported, result: Result) -> ReportedResult:
    kind: Literal["benchmark", "metric"] = "benchmark" if result.benchmark else "metric"
    term = _term(atlas, kind, result.measure)
    unit, better = result.unit or term.unit or "", term.better or "higher"
    share = experiment.share_kept
    if share is None and experiment.tokens_kept and experiment.tokens_full:
        share = experiment.tokens_kept / experiment.tokens_full
    return ReportedResult(
        technique=technique.id, kind=kind, measure=term.id, model=experiment.model_given,
        setting=experiment.setting, tokens_kept=experiment.tokens_kept, share_kept=share, device=experiment.device,
        data=result.data, value=result.value, qualifier=result.qualifier, unit=unit, baseline=result.baseline,
        percent_of_baseline=_percent_of_baseline(result.value, result.baseline, unit, better), better=better,
        paper=experiment.source.paper, place=experiment.source.place, note=experiment.note,
    )  # fmt: skip


def _percent_of_baseline(value: float, baseline: float | None, unit: str, better: str) -> float | None:
    match unit:
        case "×":  # times better: a speed grows by the factor, a time or a size falls by it
            return 100 * value if better == "higher" else 100 / value if value else None
        case "% less":
            return 100 - value
        case "% more":
            return 100 + value
        case "% of baseline":
            return value
    return 100 * value / baseline if baseline else None


def _term(atlas: Atlas, kind: str, id_: str) -> BenchmarkTerm | MetricTerm:
    return cast("BenchmarkTerm | MetricTerm", atlas.term(kind, id_))


def _model_named(atlas: Atlas, word: str) -> str:
    """The id of a model in the catalog, or a name that some source prints."""
    try:
        return word if word in atlas.models else atlas.model(word).id
    except UnknownIdError:
        names = {e.model_given for t in atlas.techniques.values() for e in t.reported}
        printed = {folded(name): name for name in names}
        if folded(word) not in printed:
            raise UnknownIdError(f"no result is of the model {word!r}; {suggestion(word, names)}") from None
        return printed[folded(word)]


def _place(order: Mapping[tuple[str, str], int], row: ReportedResult) -> tuple[int, int, str]:
    return MEASURES.index(row.kind), order[row.kind, row.measure], folded(row.model)


def _most_kept_first(row: ReportedResult) -> tuple[float, float, str]:
    """By share kept, then number kept, those that state neither last; then by technique, in the order of its entry."""
    share = -1 if row.share_kept is None else row.share_kept
    return -share, -(row.tokens_kept or 0), row.technique
