"""Holds runtimes against published times in a file: of each the error, and whether the bound was ever beaten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lvlm_atlas.atlas.shelves import Shelves, folded
from lvlm_atlas.atlas.yaml_subset import YamlFault, parse
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.runtime import Runtime
from lvlm_atlas.schema.timing import Point
from lvlm_atlas.specs.timing import Timing

SLACK = 1e-9
"""Rounding by which a measurement may fall below the bound."""


class JudgedPoint(BaseModel):
    """A point as files of others give it: that of a timing record, with its source and the software in words."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str
    hardware: str
    args: tuple[str, ...]
    metric: str
    value: float
    source: str = ""
    runtime: str | None = None
    framework: str | None = None
    text_only: bool = False
    excluded: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One published time beside what the engine says."""

    timing: Timing
    runtime: Runtime
    predicted_s: float
    ideal_s: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted_s / self.timing.value_s

    @property
    def beats_ideal(self) -> bool:
        """Whether less was measured than the bound allows."""
        return self.timing.value_s < self.ideal_s * (1 - SLACK)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A point that is not judged, and why."""

    label: str
    why: str


def read_points(path: Path) -> list[JudgedPoint]:
    """The points of a file: a timing record, or a list under `points` whose items name `source` and `framework`.

    Raises:
        AtlasError: the file cannot be read, is no such YAML, or a point lacks something.
    """
    try:
        data: Mapping[str, Any] = parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise AtlasError(f"{path} cannot be read: {error}") from None
    except YamlFault as fault:
        raise AtlasError(f"{path}:{fault.line}:{fault.column}: {fault.message}; {fault.repair}") from None
    points = data.get("points")
    if not isinstance(points, tuple) or not points:
        raise AtlasError(f"{path} has no list `points`; give a file of `catalog/timings`, or one built like it")
    whole = {"runtime": data.get("runtime"), "source": str(data.get("id") or path.stem)}
    found = []
    for number, point in enumerate(points, 1):
        try:
            found.append(JudgedPoint.model_validate({**whole, **point} if isinstance(point, dict) else point))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise AtlasError(f"{path}, point {number}: {where}: {first['msg']}") from None
    return found


def judged(
    points: Iterable[JudgedPoint],
    atlas: Shelves,
    timing_of: Callable[[Point, str], Timing],
    runtime_of: Callable[[str], Runtime],
) -> Iterator[Verdict | Skipped]:
    """Each point held against the runtime that it names.

    Args:
        points: the points.
        atlas: which runtimes there are.
        timing_of: makes a timing of a point and its source.
        runtime_of: finds runtimes by id.
    """
    for each in points:
        label = f"{each.source}: {each.model} on {each.hardware}, {' '.join(each.args)}, {each.metric}"
        id_ = _runtime_named(each, atlas)
        if each.excluded:
            yield Skipped(label, each.excluded)
        elif not each.metric.endswith("_s"):
            yield Skipped(label, f"{each.metric} is no time")
        elif id_ is None:
            yield Skipped(label, f"no runtime is called {each.framework or each.runtime!r}")
        else:
            fields = each.model_dump(include={"model", "hardware", "args", "metric", "value", "text_only"})
            try:
                timing = timing_of(Point.model_validate({**fields, "stated": "as in the file"}), each.source)
                runtime = runtime_of(id_)
                yield Verdict(timing, runtime, timing.predicted_s(runtime), timing.predicted_s(None))
            except ValidationError as error:
                yield Skipped(label, f"{'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}")
            except AtlasError as error:
                yield Skipped(label, str(error))


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Sums of some verdicts."""
    errors = sorted(abs(each.ratio - 1) for each in verdicts)
    return {
        "points": len(verdicts),
        "sources": len({each.timing.source for each in verdicts}),
        "median_error": median(errors),
        "median_ratio": median(each.ratio for each in verdicts),
        "worst_error": errors[-1],
        "below_ideal": sum(each.beats_ideal for each in verdicts),
    }


def _runtime_named(point: JudgedPoint, atlas: Shelves) -> str | None:
    """The runtime that a point names by id, or whose name its framework holds; the longest name of those."""
    if point.runtime is not None:
        return point.runtime if point.runtime in atlas.runtimes else None
    words = folded(point.framework or "")
    names = {
        folded(name): id_ for id_, record in atlas.runtimes.items() for name in (id_, record.name, *record.aliases)
    }
    return next((names[name] for name in sorted(names, key=len, reverse=True) if name in words), None)
