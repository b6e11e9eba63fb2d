"""Reported numbers fit what they are numbers of: models, units, and the range of a score."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.records import MODELS
from lvlm_atlas.atlas.shelves import folded, words_of_model
from lvlm_atlas.atlas.yaml_subset import Loc
from lvlm_atlas.fault import suggestion
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.rules.sample import ALPHA
from lvlm_atlas.schema.reported import RELATIVE, Reported, Result, units_of
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import BenchmarkTerm, MetricTerm


def _experiment(**changes: Any) -> Any:
    """An example that changes the first experiment of the sample."""

    def change(files: Files) -> None:
        files[ALPHA]["reported"][0].update(changes)

    return change


def _result(**changes: Any) -> Any:
    """An example that changes the first number of the sample."""

    def change(files: Files) -> None:
        files[ALPHA]["reported"][0]["results"][0].update(changes)

    return change


@rule(
    id="unknown-model",
    message="the catalog has no model {id!r}",
    repair="{hint}, or give `model_name` as the source prints it",
    why="Results are joined by model, and a misspelt one would stand alone.",
    example=_experiment(model="gama"),
)
def unknown_model(inspection: Inspection) -> Iterator[Finding]:
    """Models of reported numbers. Silent while a model's file cannot be read: it may be the one."""
    if any(path.is_relative_to(MODELS) for path in inspection.unread):
        return
    models = inspection.atlas.models
    for path, loc, to, id_ in inspection.references:
        if to == "model" and id_ not in models:
            yield Finding(path=path, loc=loc, words={"id": id_, "hint": suggestion(id_, models)})


def _named_in_full(files: Files) -> None:
    experiment = files[ALPHA]["reported"][0]
    del experiment["model"]
    experiment["model_name"] = "gamma chat"


@rule(
    id="model-has-an-id",
    message="`model_name` is {name!r}, which the catalog holds as {id!r}",
    repair="write `model: {id}` in its place",
    why="Results are joined by model, and this one would stand apart from the others of the same model.",
    example=_named_in_full,
)
def model_has_an_id(inspection: Inspection) -> Iterator[Finding]:
    """Models of reported numbers that are given by name."""
    ids = {folded(word): id_ for id_, m in inspection.atlas.models.items() for word in (id_, *words_of_model(m))}
    for path, _, loc, experiment in _experiments(inspection):
        id_ = ids.get(folded(experiment.model_name or ""))
        if id_ is not None:
            yield Finding(path=path, loc=(*loc, "model_name"), words={"name": experiment.model_name, "id": id_})


@rule(
    id="unit-of-another-measure",
    message="{measure} is not printed in {unit!r}",
    repair="give one of {units}",
    why="Numbers in units that cannot be turned into each other cannot be put into one column.",
    example=_result(unit="s"),
)
def unit_of_another_measure(inspection: Inspection) -> Iterator[Finding]:
    """Units of reported numbers."""
    for path, loc, result, term in _results(inspection):
        units = (*units_of(term.unit or ""), *RELATIVE)
        if result.unit is not None and result.unit not in units:
            words = {"measure": term.id, "unit": result.unit, "units": ", ".join(units)}
            yield Finding(path=path, loc=(*loc, "unit"), words=words)


@rule(
    id="score-beyond-the-scale",
    message="{value:g} is more than {highest:g}, the highest score of {measure}",
    repair="correct it, or give its `unit` if it is printed relative to the unmodified model",
    why="A slip of the decimal point would look like the best result of all.",
    example=_result(value=601),
)
def score_beyond_the_scale(inspection: Inspection) -> Iterator[Finding]:
    """Scores and their baselines on benchmarks that have a highest score."""
    for path, loc, result, term in _results(inspection):
        if not isinstance(term, BenchmarkTerm) or term.highest is None or result.unit in RELATIVE:
            continue
        for key, value in (("value", result.value), ("baseline", result.baseline)):
            if value is not None and value > term.highest:
                words = {"value": value, "highest": term.highest, "measure": term.id}
                yield Finding(path=path, loc=(*loc, key), words=words)


def _twice(files: Files) -> None:
    experiment = files[ALPHA]["reported"][0]
    experiment["results"].append({**experiment["results"][0], "value": 60.2})


@rule(
    id="duplicate-result",
    message="{measure} has a number already for this model, setting and source",
    repair="keep one, or say in `data`, `device` or `note` what sets them apart",
    why="Nobody could tell which of the two numbers holds.",
    example=_twice,
)
def duplicate_result(inspection: Inspection) -> Iterator[Finding]:
    """Numbers of one entry that differ in nothing but their value; the ends of a range differ in their qualifier."""
    seen: set[tuple[Path, str]] = set()
    for path, _, loc, experiment in _experiments(inspection):
        shared = experiment.model_dump_json(exclude={"results"})
        for index, result in enumerate(experiment.results):
            key = (path, shared + result.model_dump_json(exclude={"value", "baseline"}))
            if key in seen:
                yield Finding(path=path, loc=(*loc, "results", index), words={"measure": result.measure})
            seen.add(key)


def _experiments(inspection: Inspection) -> Iterator[tuple[Path, Technique, Loc, Reported]]:
    for path, technique in inspection.of(Technique):
        for index, experiment in enumerate(technique.reported):
            yield path, technique, ("reported", index), experiment


def _results(inspection: Inspection) -> Iterator[tuple[Path, Loc, Result, BenchmarkTerm | MetricTerm]]:
    """The numbers with what they are numbers of; those of unknown terms, another rule's fault, are left out."""
    terms = {
        (name, term.id): term
        for name in ("benchmark", "metric")
        if name in inspection.atlas.vocabularies
        for term in inspection.atlas.vocabularies[name].terms
    }
    for path, _, loc, experiment in _experiments(inspection):
        for index, result in enumerate(experiment.results):
            term = terms.get(("benchmark" if result.benchmark else "metric", result.measure))
            if isinstance(term, BenchmarkTerm | MetricTerm) and not term.gone:
                yield path, (*loc, "results", index), result, term
