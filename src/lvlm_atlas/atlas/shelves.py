"""Records that are read one at a time, when they are asked for, and how they are found by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lvlm_atlas.atlas.records import (
    CALIBRATIONS,
    CURVES,
    HARDWARE,
    LISTS,
    MODELS,
    RUNTIMES,
    STACKS,
    SYSTEMS,
    TIMINGS,
    TRAFFIC,
    WORKLOADS,
    Records,
)
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.fault import AtlasError, suggestion

if TYPE_CHECKING:  # imported when a record is asked for: commands that ask for none start faster
    from lvlm_atlas.schema.calibration import Calibration
    from lvlm_atlas.schema.curve import Curve
    from lvlm_atlas.schema.hardware import Hardware
    from lvlm_atlas.schema.model import Model
    from lvlm_atlas.schema.runtime import Runtime
    from lvlm_atlas.schema.stack import MeasuredStack
    from lvlm_atlas.schema.survey_list import SurveyList
    from lvlm_atlas.schema.system import System
    from lvlm_atlas.schema.timing import Timings
    from lvlm_atlas.schema.traffic import Traffic
    from lvlm_atlas.schema.workload import Workload

R = TypeVar("R")


class UnknownIdError(AtlasError):
    """An id that the atlas does not hold; the message carries the nearest one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shelves:
    """Models, devices, runtimes, workloads, serving systems, published lists, timings and traffic of one root."""

    models: Mapping[str, Model] = field(default_factory=dict)
    """Vision-language models by id."""
    hardware: Mapping[str, Hardware] = field(default_factory=dict)
    """Accelerators by id."""
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    """Workloads by id."""
    systems: Mapping[str, System] = field(default_factory=dict)
    """Serving systems and features of engines by id."""
    lists: Mapping[str, SurveyList] = field(default_factory=dict)
    """Published lists of techniques by id."""
    runtimes: Mapping[str, Runtime] = field(default_factory=dict)
    """Runtimes by id."""
    timings: Mapping[str, Timings] = field(default_factory=dict)
    """Published times by id."""
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    """Measured kernels by id."""
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    """Published distributions of requests by id."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """What techniques cost in answers, by the technique's id."""
    stacks: Mapping[str, MeasuredStack] = field(default_factory=dict)
    """What techniques cost in answers together, by their ids joined by `.`."""

    def model(self, id_or_alias: str) -> Model:
        """The model of that id, name, alias or repository (case, spaces and hyphens do not matter).

        Raises:
            UnknownIdError: there is none; the message suggests the nearest.
            FaultsError: its file has faults.
        """
        return _named("model", self.models, id_or_alias, words_of_model)

    def device(self, id_or_alias: str) -> Hardware:
        """The accelerator of that id, name or alias (case, spaces and hyphens do not matter).

        Raises:
            UnknownIdError: there is none; the message suggests the nearest.
            FaultsError: its file has faults.
        """
        return _named("device", self.hardware, id_or_alias, words_of_device)

    def workload(self, id_: str) -> Workload:
        """The workload of that id or name (case, spaces and hyphens do not matter).

        Raises:
            UnknownIdError: there is none; the message suggests the nearest.
            FaultsError: its file has faults.
        """
        return _named("workload", self.workloads, id_, lambda workload: (workload.name,))

    def system(self, id_or_alias: str) -> System:
        """The serving system of that id, name or alias (case, spaces and hyphens do not matter).

        Raises:
            UnknownIdError: there is none; the message suggests the nearest.
            FaultsError: its file has faults.
        """
        return _named("system", self.systems, id_or_alias, lambda system: (system.name, *system.aliases))

    def runtime(self, id_or_alias: str) -> Runtime:
        """The runtime of that id, name or alias (case, spaces and hyphens do not matter).

        Raises:
            UnknownIdError: there is none; the message suggests the nearest.
            FaultsError: its file has faults.
        """
        return _named("runtime", self.runtimes, id_or_alias, lambda runtime: (runtime.name, *runtime.aliases))

    def arriving(self, id_: str) -> Traffic:
        """The published distribution of requests of that id or name (case, spaces and hyphens do not matter).

        Raises:
            UnknownIdError: there is none; the message suggests the nearest.
            FaultsError: its file has faults.
        """
        return _named("traffic", self.traffic, id_, lambda traffic: (traffic.name,))

    def list_(self, id_: str) -> SurveyList:
        """The published list of that id or name (case, spaces and hyphens do not matter).

        Raises:
            UnknownIdError: there is none; the message suggests the nearest.
            FaultsError: its file has faults.
        """
        return _named("list", self.lists, id_, lambda list_: (list_.name,))


def shelves(root: Path | None = None) -> Shelves:
    """What is read one record at a time under `root`, without its techniques; by default that of the package.

    Raises:
        FileNotFoundError: no root is given and the package lies beside no atlas.
    """
    root = root or data_root()
    return Shelves(
        models=Records(root, MODELS), hardware=Records(root, HARDWARE), workloads=Records(root, WORKLOADS),
        systems=Records(root, SYSTEMS), lists=Records(root, LISTS), runtimes=Records(root, RUNTIMES),
        timings=Records(root, TIMINGS), calibrations=Records(root, CALIBRATIONS),
        traffic=Records(root, TRAFFIC),
        curves=Records(root, CURVES),
        stacks=Records(root, STACKS),
    )  # fmt: skip


def words_of_model(model: Model) -> tuple[str, ...]:
    """What a model is called besides its id."""
    return (model.name, *model.aliases, model.hf_id, model.hf_id.partition("/")[2])


def words_of_device(device: Hardware) -> tuple[str, ...]:
    """What an accelerator is called besides its id."""
    return (device.name, *device.aliases)


def _named(what: str, records: Mapping[str, R], word: str, words_of: Callable[[R], Iterable[str]]) -> R:
    """The record of an id, else of another of its names. Only the second reads records that are not asked for, those
    first whose id begins as the name does (`h200` for `h200-sxm`).
    """
    wanted = folded(word)
    for id_ in records:
        if folded(id_) == wanted:
            return records[id_]
    known = list(records)
    for id_ in sorted(records, key=lambda id_: not folded(id_).startswith(wanted)):
        record = records[id_]
        words = tuple(words_of(record))
        if wanted in map(folded, words):
            return record
        known += words
    raise UnknownIdError(f"no {what} {word!r}; {suggestion(word, known, records)}")


def folded(word: str) -> str:
    """A word as searches compare it: letters and digits, without case."""
    return "".join(ch for ch in word.casefold() if ch.isalnum())
