"""Runtimes rest on timings that the catalog holds, and come near them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.records import HARDWARE, RUNTIMES, TIMINGS, TRAFFIC
from lvlm_atlas.fault import suggestion
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.rules.sample import RUNTIME, TIMING
from lvlm_atlas.schema.calibration import MOST_RESIDUAL, Calibration
from lvlm_atlas.schema.runtime import Runtime


def _other_device(files: Files) -> None:
    files[TIMING]["points"][0]["hardware"] = "deltta"


@rule(
    id="unknown-record",
    message="the catalog has no {kind} {id!r}",
    repair="{hint}",
    why="A timing of an unknown device, or a fit to unknown timings, cannot be computed again.",
    example=_other_device,
)
def unknown_record(inspection: Inspection) -> Iterator[Finding]:
    """Runtimes, timings and devices that runtimes and timings name. Silent while one of their files is unread."""
    atlas = inspection.atlas
    kinds: Mapping[str, tuple[Path, Mapping[str, Any]]] = {
        "runtime": (RUNTIMES, atlas.runtimes), "timing": (TIMINGS, atlas.timings), "device": (HARDWARE, atlas.hardware),
        "traffic": (TRAFFIC, atlas.traffic),
    }  # fmt: skip
    for path, loc, kind, id_ in inspection.references:
        if kind not in kinds:
            continue
        folder, known = kinds[kind]
        unread = any(each.is_relative_to(folder) for each in inspection.unread)
        if id_ not in known and not unread:
            yield Finding(path=path, loc=loc, words={"kind": kind, "id": id_, "hint": suggestion(id_, known)})


def _loose(files: Files) -> None:
    files[RUNTIME]["fit"]["residual"] = 0.4


@rule(
    id="residual-too-large",
    message="the times are {residual:.0%} off in the median, on the points they were fitted to",
    repair="add a term that explains them, exclude points with a reason, or fit anew; {most:.0%} at most",
    why="A runtime that misses its own timings says nothing of others.",
    example=_loose,
)
def residual_too_large(inspection: Inspection) -> Iterator[Finding]:
    """Fits of runtimes, and laws of measured kernels."""
    for path, runtime in inspection.of(Runtime):
        if runtime.fit and runtime.fit.residual > MOST_RESIDUAL:
            words = {"residual": runtime.fit.residual, "most": MOST_RESIDUAL}
            yield Finding(path=path, loc=("fit", "residual"), words=words)
    for path, calibration in inspection.of(Calibration):
        for index, law in enumerate(calibration.laws):
            if law.residual > MOST_RESIDUAL:
                words = {"residual": law.residual, "most": MOST_RESIDUAL}
                yield Finding(path=path, loc=("laws", index, "residual"), words=words)


def _miscounted(files: Files) -> None:
    files[RUNTIME]["fit"]["points"] = 7


@rule(
    id="points-of-fit",
    message="`points` is {points}, but the timings named hold {count} of {runtime!r}",
    repair="fit or judge anew with `lvlm-atlas calibrate --refit {runtime}`, or name the timings",
    why="A fit whose points have changed since is no fit to them.",
    example=_miscounted,
)
def points_of_fit(inspection: Inspection) -> Iterator[Finding]:
    """Fits of runtimes, and what they are judged by, whose timings are all there."""
    timings = inspection.atlas.timings
    for path, runtime in inspection.of(Runtime):
        for name, part in (("fit", runtime.fit), ("judged", runtime.judged)):
            if part is None or not all(id_ in timings for id_ in part.timings):
                continue
            own = [timings[id_] for id_ in part.timings if timings[id_].runtime == runtime.id]
            count = sum(not point.excluded for each in own for point in each.points)
            if count != part.points:
                words = {"points": part.points, "count": count, "runtime": runtime.id}
                yield Finding(path=path, loc=(name, "points"), words=words)
