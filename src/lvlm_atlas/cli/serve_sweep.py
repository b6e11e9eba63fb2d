"""`serve-sim --out`: each combination of policy, stack and rate in a table that outlives the run."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lvlm_atlas.cli as cli_package
import lvlm_atlas.planner as planner_package
import lvlm_atlas.roofline as roofline_package
import lvlm_atlas.serving as serving_package
import lvlm_atlas.specs as specs_package
import lvlm_atlas.sweep as sweep_package
from lvlm_atlas.atlas.edition import digest
from lvlm_atlas.cli.options import Listing
from lvlm_atlas.cli.output import print_rows
from lvlm_atlas.cli.serve_answers import answers
from lvlm_atlas.cli.serve_question import Question, scenarios, traffic
from lvlm_atlas.cli.sweep import shown
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.serving.scenario import Scenario
from lvlm_atlas.sweep.load_columns import COLUMNS, predicted
from lvlm_atlas.sweep.part import OTHER
from lvlm_atlas.sweep.runner import check_engine, keeping, need


@dataclass(frozen=True)
class LoadJob:
    """What every process is told."""

    asked: Question
    root: Path
    digest: str
    """The catalog and the source that the rows must come from."""

    def opened(self) -> Loads:
        """Make ready in this process.

        Raises:
            AtlasError: it has another catalog or source.
        """
        if source(self.root) != self.digest:
            raise AtlasError(OTHER)
        return Loads(self.asked, self.root)


class Loads:
    """The table of a question: its rows in the order of nested loops over policies, stacks and rates."""

    def __init__(self, asked: Question, root: Path) -> None:
        """Make ready.

        Raises:
            AtlasError: an option is wrong.
        """
        self.asked, self.planner = asked, Planner(root)
        self.rates, self.stream, kinds, self.workload = traffic(asked, self.planner)
        self.groups = list(scenarios(asked, self.planner, kinds))

    @cached_property
    def places(self) -> Sequence[tuple[list[Scenario], float | None]]:
        """The servers and the rate of each row."""
        rates = [None] if self.asked.capacity else self.rates
        return [(group, rate) for group in self.groups for rate in rates]

    def part(self, index: int) -> bytes:
        """One row as a Parquet file."""
        from lvlm_atlas.sweep.columns import parquet

        return parquet(COLUMNS, [self.row(index)])

    def row(self, number: int) -> dict[str, Any]:
        """The row of a place; what cannot be says why."""
        group, rate = self.places[number]
        first = group[0]
        known = {"point": number, "model": first.model.id, "hardware": first.device.id, "workload": self.workload}
        try:
            (answer,) = answers(self.asked, group, [rate], self.stream)
        except AtlasError as error:
            stack = "+".join(first.labels)
            return {**known, "policy": first.policy.id, "stack": stack, "rate": rate, "error": str(error)}
        return {**known, **predicted(answer.row)}


def source(root: Path) -> str:
    """Names what rows come from: the catalog, and the source of whatever makes numbers of it."""
    from lvlm_atlas.sweep.work import sources

    packages = (roofline_package, specs_package, planner_package, serving_package, sweep_package, cli_package)
    return hashlib.sha256("\n".join((digest(root), *sources(*packages))).encode()).hexdigest()


def sweep_loads(
    asked: Question, out: Path, *, root: Path, engine: str, workers: int | None, scheduler: str | None, restart: bool
) -> None:
    """Simulate each combination that is not there yet, keep it, and print a line on all.

    Raises:
        AtlasError: an option is wrong, an extra is missing, or `out` holds something else.
    """
    need("pyarrow", "--out needs")
    from lvlm_atlas.sweep.results import Results

    check_engine(engine, workers, scheduler, 1)
    if asked.timeline:
        raise AtlasError("--timeline draws one run; leave it or --out out")
    loads = Loads(asked, root)
    of = source(root)
    definition = {
        "format": "lvlm-atlas-serve-sweep/1", "version": version("lvlm-atlas"), "evidence": "predicted",
        "points": len(loads.places), "part_points": 1, "source_sha256": of, "grid": repr(asked),
    }  # fmt: skip
    results = Results(out)
    with shown() as progress, keeping(
        results, pickle.dumps(LoadJob(asked, root, of)), definition, workers=workers, scheduler=scheduler,
        restart=restart, progress=progress,
    ):  # fmt: skip
        import pyarrow.parquet as pq

        refused = sum(len(kept) - kept["error"].null_count for kept in
                      (pq.read_table(file, columns=["error"]) for file in results.files))  # fmt: skip
    row = {"id": str(out), "out": str(out), "points": len(loads.places), "refused": refused}
    print_rows([row], ("out", "points", "refused"), Listing.table)
