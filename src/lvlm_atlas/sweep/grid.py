"""What a sweep covers: axes whose product is never written out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.limits import REQUEST
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment, dtype_named
from lvlm_atlas.roofline.weights import number_type, weights_spelled
from lvlm_atlas.sweep.names import chosen
from lvlm_atlas.sweep.stacks import Stack, expand


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a grid: a place on each axis."""

    model: str
    hardware: str
    workload: str
    batch: int | None
    deployment: Deployment
    stack: Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The axes of a sweep, slowest first. Points are numbered as nested loops meet them."""

    models: tuple[str, ...]
    """Ids."""
    hardware: tuple[str, ...]
    """Ids."""
    workloads: tuple[str, ...]
    """Ids."""
    batches: tuple[int | None, ...] = (None,)
    """Requests processed together; None: as the workload says."""
    deployments: tuple[Deployment, ...] = (Deployment(),)
    """Ways to run the model."""
    stacks: tuple[Stack, ...] = ((),)
    """Stacks of techniques."""
    price_usd_h: Mapping[str, float] = field(default_factory=dict)
    """Price of a device for an hour, by its id."""

    @property
    def points(self) -> int:
        """How many points there are."""
        return math.prod(map(len, self._axes))

    def point(self, index: int) -> Point:
        """The point of that number, from 0."""
        values: list[Any] = []
        for axis in reversed(self._axes):
            index, place = divmod(index, len(axis))
            values.append(axis[place])
        return Point(*reversed(values))

    @property
    def _axes(self) -> tuple[Sequence[object], ...]:
        return self.models, self.hardware, self.workloads, self.batches, self.deployments, self.stacks


def grid(
    planner: Planner,
    *,
    models: Iterable[str],
    hardware: Iterable[str],
    workloads: Iterable[str],
    stacks: Iterable[str] = ("none",),
    batches: Iterable[int] = (),
    deployments: Iterable[Deployment] = (),
    price_usd_h: Mapping[str, float] | None = None,
) -> Grid:
    """A grid by names: see `runner.sweep` for the arguments.

    Raises:
        AtlasError: a name is unknown, a text no stack, or a number outside its range.
    """
    atlas, techniques = planner.atlas, planner.kb.atlas
    every = partial(expand, techniques=techniques.techniques, id_of=lambda word: techniques.technique(word).id)
    devices = chosen("device", hardware, atlas.hardware, lambda word: atlas.device(word).id)
    return Grid(
        models=chosen("model", models, atlas.models, lambda word: atlas.model(word).id),
        hardware=devices,
        workloads=chosen("workload", workloads, atlas.workloads, lambda word: planner.workload(word).id),
        batches=_batches(batches),
        deployments=tuple(deployments) or (Deployment(),),
        stacks=tuple(dict.fromkeys(stack for text in stacks for stack in every(text))) or ((),),
        price_usd_h={atlas.device(word).id: _price(word, price) for word, price in (price_usd_h or {}).items()},
    )


def deployments(**axes: Sequence[Any]) -> tuple[Deployment, ...]:
    """Deployments with every combination of the values given; an axis without values keeps the default.

    Args:
        axes: values by the names of the fields of `Deployment`.

    Raises:
        AtlasError: a value is outside its range, or no type of numbers.
    """
    given = {name: dict.fromkeys(values) for name, values in axes.items() if values}
    spelled = {"weight_dtype": weights_spelled, "activation_dtype": dtype_named, "kv_dtype": _kv_spelled}
    for name in given.keys() & spelled.keys():
        given[name] = dict.fromkeys(spelled[name](value) for value in given[name])
    return tuple(Deployment(**dict(zip(given, each, strict=True))) for each in product(*given.values()))


def _kv_spelled(text: str) -> str:
    """The type of the cache, by its short name."""
    return str(number_type(text, "kv_dtype"))


def _batches(batches: Iterable[int]) -> tuple[int | None, ...]:
    distinct = tuple(dict.fromkeys(batches))
    for batch in distinct:
        least, most = REQUEST["batch"]
        if not least <= batch <= most:
            raise AtlasError(f"batch is {batch}; give a whole number from {least:,} to {most:,}")
    return distinct or (None,)


def _price(word: str, price: float) -> float:
    if not (math.isfinite(price) and price >= 0):
        raise AtlasError(f"the price of {word} is {price!r}; give a price of 0 or more")
    return price
