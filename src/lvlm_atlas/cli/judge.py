"""Prints how near runtimes come to published times, and fits a runtime anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from lvlm_atlas.cli.options import Listing
from lvlm_atlas.cli.output import print_rows
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.units import seconds, share
from lvlm_atlas.schema.runtime import Runtime
from lvlm_atlas.schema.timing import Point
from lvlm_atlas.specs.fitting import Residual, fitted, left_out, median_error, residuals
from lvlm_atlas.specs.judgement import Skipped, Verdict, judged, read_points, summary
from lvlm_atlas.specs.timing import Timing, timing

COLUMNS = ("runtime", "points", "sources", "median error", "median ratio", "worst error", "below ideal", "left out")
"""What a table shows of a runtime; `left out` is the median error of its own fit on what was left out of it."""
POINT_COLUMNS = ("source", "case", "metric", "measured", "predicted", "ratio", "ideal ratio")
"""What a table shows of a published time."""


def run_judge(planner: Planner, path: Path, listing: Listing, *, every: bool) -> None:
    """Hold the runtimes against the times of a file, and print a row for each runtime, or for each time.

    Raises:
        AtlasError: the file has faults, or no point of it can be judged.
        Exit: a time lies below the bound.
    """
    found = [*judged(read_points(path), planner.atlas, _maker(planner), planner.runtime)]
    verdicts = [each for each in found if isinstance(each, Verdict)]
    for each in found:
        if isinstance(each, Skipped):
            typer.echo(f"not judged: {each.label}: {each.why}", err=True)
    if not verdicts:
        raise AtlasError(f"{path}: no point can be judged; each is named above, with the reason")
    program = listing in (Listing.json, Listing.jsonl, Listing.csv, Listing.ids)
    if every:
        points = [_point(each, program) for each in verdicts]
        print_rows(points, tuple(points[0]) if program else POINT_COLUMNS, listing)
    else:
        groups: dict[str, list[Verdict]] = {}
        for verdict in verdicts:
            groups.setdefault(verdict.runtime.id, []).append(verdict)
        named = [*groups.items(), ("all", verdicts)]
        rows = [{"id": id_, "runtime": id_, **_sums(group, program)} for id_, group in named]
        print_rows(rows, tuple(rows[0]) if program else COLUMNS, listing)
    if any(each.beats_ideal for each in verdicts):
        typer.echo("a measured time lies below the bound: a peak, the request or the time itself is wrong", err=True)
        raise typer.Exit(1)


def run_refit(planner: Planner, id_: str, listing: Listing) -> None:
    """Fit a runtime to the timings that its record names, and print its times and what they are off: on those, on what
    was left out in turn, and on the timings kept aside. A record without a fit is judged alone.

    Raises:
        AtlasError: there is no such runtime, or no timing of it.
    """
    record = planner.atlas.runtime(id_)
    record_of = planner.atlas.runtime
    kept = residuals(record, timings_of(planner, record.judged.timings), record_of) if record.judged else []
    if record.fit is None:
        if not kept:
            raise AtlasError(f"{record.id}: no timing under catalog/timings is of it; its times are not fitted")
        new, own, held, by = record, [], [], ""
    else:
        timings = timings_of(planner, record.fit.timings)
        new, by = fitted(record, timings, record_of), record.fit.left_out_by
        own, held = residuals(new, timings, record_of), left_out(record, timings, record_of, group_by(by))
        kept = residuals(new, [each.timing for each in kept], record_of)
    if listing is Listing.table:
        typer.echo(_yaml(new, own, held, kept))
    else:
        groups = {"fit": own, by: held, "kept aside": kept}
        rows = [_residual(each, name) for name, found in groups.items() for each in found]
        print_rows(rows, tuple(rows[0]), listing)


def timings_of(planner: Planner, ids: Sequence[str]) -> list[Timing]:
    """The timings of some records that count."""
    make = _maker(planner)
    records = [planner.atlas.timings[id_] for id_ in ids]
    return [make(point, record.id) for record in records for point in record.points if not point.excluded]


def group_by(what: str) -> Any:
    """Finds what a timing is left out with."""
    keys = {
        "source": lambda each: each.source,
        "source and device": lambda each: (each.source, each.device.id),
        "request": lambda each: (each.source, each.model.id, each.device.id, each.workload),
    }
    return keys[what]


def _maker(planner: Planner) -> Any:
    return lambda point, source: timing(
        Point.model_validate(point.model_dump()), source, planner.model, planner.device, planner.request
    )


def _sums(verdicts: Sequence[Verdict], program: bool) -> dict[str, Any]:
    sums = summary(verdicts)
    residual = {each.runtime.id: each.runtime.residual for each in verdicts}
    sums["left_out"] = next(iter(residual.values())) if len(residual) == 1 else None
    if program:
        return sums
    shares = ("median_error", "worst_error", "left_out")
    shown = {name: share(value) if name in shares and value is not None else value for name, value in sums.items()}
    shown["median_ratio"] = f"{sums['median_ratio']:.2f}"
    return {name.replace("_", " "): value for name, value in shown.items()}


def _point(each: Verdict, program: bool) -> dict[str, Any]:
    own = {"id": each.timing.source, "source": each.timing.source, "case": each.timing.label}
    own["metric"] = each.timing.metric
    times = {"measured": each.timing.value_s, "predicted": each.predicted_s}
    ratios = {"ratio": each.ratio, "ideal ratio": each.ideal_s / each.timing.value_s}
    if program:
        return {**own, **{f"{name}_s": value for name, value in times.items()}, "runtime": each.runtime.id,
                **{name.replace(" ", "_"): value for name, value in ratios.items()}}  # fmt: skip
    shown = {name: seconds(value) for name, value in times.items()}
    return {**own, **shown, **{name: f"{value:.2f}" for name, value in ratios.items()}}


def _residual(each: Residual, out: str) -> dict[str, Any]:
    return {
        "id": each.timing.source, "case": each.timing.label, "metric": each.timing.metric, "left_out": out,
        "measured_s": each.timing.value_s, "predicted_s": each.predicted_s, "ratio": each.ratio,
    }  # fmt: skip


def _yaml(record: Runtime, own: Sequence[Residual], held: Sequence[Residual], kept: Sequence[Residual]) -> str:
    """The fitted parts of a record, as its file writes them."""
    lines: list[str] = []
    if own:
        lines.append("kernels:")
        for kind, law in record.kernels.items():
            numbers = law.model_dump(exclude_none=True).items()
            lines.append(f"  {kind}: {{{', '.join(f'{name}: {value:g}' for name, value in numbers)}}}")
        host = record.host.model_dump(exclude_defaults=True).items()
        if host:
            shown = [f"{name}: {value if isinstance(value, str) else f'{value:g}'}" for name, value in host]
            lines.append(f"host: {{{', '.join(shown)}}}")
        if record.link_latency_us is not None:
            lines.append(f"link_latency_us: {record.link_latency_us:g}")
        lines += ["fit:", *_held(own), f"  residual: {median_error(own):.3f}"]
        lines.append(f"  left_out: {median_error(held or own):.3f}")
        lines.append(f"  left_out_by: {record.fit.left_out_by if record.fit else ''}")
    if kept:
        lines += ["judged:", *_held(kept), f"  error: {median_error(kept):.3f}"]
    return "\n".join(lines)


def _held(found: Sequence[Residual]) -> list[str]:
    """Which timings some residuals are of, and how many."""
    ids = dict.fromkeys(each.timing.source for each in found)
    return [f"  timings: [{', '.join(ids)}]", f"  points: {len(found)}"]
