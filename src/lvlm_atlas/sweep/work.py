"""The work of a sweep: parts of the table, each computed by one process that keeps what the points share."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from lvlm_atlas import planner as planner_package
from lvlm_atlas import roofline as roofline_package
from lvlm_atlas import schema as schema_package
from lvlm_atlas import specs as specs_package
from lvlm_atlas import sweep as sweep_package
from lvlm_atlas.atlas.places import effect_place
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.shortage import shortage
from lvlm_atlas.roofline.contract import contract
from lvlm_atlas.roofline.estimate import estimate
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.specs.stack import Choice, conflict, parse, unfit
from lvlm_atlas.specs.technique import applied
from lvlm_atlas.sweep import columns
from lvlm_atlas.sweep.grid import Grid, Point
from lvlm_atlas.sweep.part import OTHER
from lvlm_atlas.sweep.stacks import Stack, label


@dataclass(frozen=True, slots=True)
class Job:
    """What every process of a sweep is told."""

    grid: Grid
    root: Path | None
    """Folder of the catalog; None: the one that comes with the package, wherever the process runs."""
    part_points: int
    """Points of each part but the last."""
    digest: str
    """The catalog and the engine that the rows must come from."""

    def pickled(self) -> bytes:
        """The job as processes are sent it."""
        return pickle.dumps(self)

    def opened(self) -> Part:
        """Make ready in this process.

        Raises:
            AtlasError: it has another catalog or engine than the one that the job is for.
        """
        bench = Bench(self.grid, Planner(self.root))
        if bench.digest != self.digest:
            raise AtlasError(OTHER)
        return Part(self, bench)


@dataclass(frozen=True, slots=True)
class Part:
    """What computes parts of the table."""

    job: Job
    bench: Bench

    def part(self, index: int) -> bytes:
        """One part, as a Parquet file; its number is from 0."""
        each, points = self.job.part_points, self.job.grid.points
        rows = map(self.bench.row, range(index * each, min((index + 1) * each, points)))
        return columns.parquet(columns.COLUMNS, rows)


class Bench:
    """What a grid names, ready for the engine: each thing is read once, for all the points that share it."""

    def __init__(self, grid: Grid, planner: Planner) -> None:
        """Make ready.

        Raises:
            AtlasError: a technique of a stack is unknown, or a value outside its range.
        """
        self.grid, self.planner = grid, planner
        self._model, self._device, self._workload = cache(planner.model), cache(planner.device), cache(planner.workload)
        self._choice, self._applied = cache(self._parsed), cache(self._lowered)
        for stack in grid.stacks:
            self._techniques(stack)  # a value outside its range is a mistake, not a point to refuse
        self.refused = {
            stack: why for stack in grid.stacks if (why := conflict(planner.kb, [*map(self._choice, stack)]))
        }
        """Stacks whose techniques cannot be together, with the reason."""

    @cached_property
    def digest(self) -> str:
        """Names what the rows come from: the records that the grid names, and the source of the engine."""
        return hashlib.sha256("\n".join((*self._records(), *_sources())).encode()).hexdigest()

    def row(self, number: int) -> dict[str, Any]:
        """The row of a point, without the columns that are null."""
        point = self.grid.point(number)
        stack = point.stack
        model, device, workload = self._model(point.model), self._device(point.hardware), self._workload(point.workload)
        if point.batch is not None:
            workload = replace(workload, batch=point.batch)
        row = {**self._known(number, point), "batch": workload.batch}
        if why := self.refused.get(stack) or unfit(map(self._choice, stack), model, workload):
            return {**row, "error": why}
        deployment = point.deployment
        if row["price_usd_h"] is not None:
            deployment = replace(deployment, price_usd_h=row["price_usd_h"])
        try:
            prediction = estimate(model, device, workload, deployment, self._techniques(stack))
        except AtlasError as error:
            return {**row, "error": str(error)}
        except Exception as error:
            error.add_note(f"in the sweep's point {number}: {point}")
            raise
        row |= columns.predicted(contract(prediction))
        if not prediction.fits:
            row["error"] = f"does not fit: {shortage(prediction)}"
        return row

    def _known(self, number: int, point: Point) -> dict[str, Any]:
        deployment = point.deployment
        return {
            "point": number,
            "model": point.model,
            "hardware": point.hardware,
            "workload": point.workload,
            "stack": label(point.stack),
            "techniques": [each.partition(":")[0] for each in point.stack],
            "tensor_parallel": deployment.tensor_parallel,
            "pipeline_parallel": deployment.pipeline_parallel,
            "weight_dtype": deployment.weight_dtype,
            "activation_dtype": deployment.activation_dtype,
            "kv_dtype": deployment.kv_dtype,
            "attention": deployment.attention,
            "efficiency": None if deployment.runtime else deployment.efficiency.name,
            "runtime": deployment.runtime.id if deployment.runtime else None,
            "price_usd_h": self.grid.price_usd_h.get(point.hardware, deployment.price_usd_h),
        }

    def _techniques(self, stack: Stack) -> tuple[Applied, ...]:
        return tuple(map(self._applied, stack))

    def _parsed(self, spec: str) -> Choice:
        return parse(self.planner.kb, spec)

    def _lowered(self, spec: str) -> Applied:
        choice = self._choice(spec)
        return applied(self.planner.kb.atlas, choice.technique, choice.setting, choice.outcomes)

    def _records(self) -> Iterator[str]:
        grid, atlas = self.grid, self.planner.atlas
        named = [*map(atlas.model, grid.models), *map(atlas.device, grid.hardware)]
        for record in named:
            yield record.model_dump_json()
        yield from (repr(self.planner.workload(each)) for each in grid.workloads)
        specs = dict.fromkeys(spec for stack in grid.stacks for spec in stack)
        for technique in {choice.technique.id: choice.technique for choice in map(self._choice, specs)}.values():
            yield technique.model_dump_json()
            yield repr([effect_place(self.planner.kb.atlas, technique, effect) for effect in technique.effects])
        yield repr(self.refused)


@cache
def _sources() -> tuple[str, ...]:
    return sources(*_PACKAGES)


def sources(*packages: ModuleType) -> tuple[str, ...]:
    """The source of packages, file by file."""
    folders = (Path(each).parent for package in packages for each in [package.__file__] if each)
    return tuple(file.read_text("utf-8") for folder in folders for file in sorted(folder.rglob("*.py")))


_PACKAGES = (schema_package, roofline_package, specs_package, planner_package, sweep_package)
