"""Policies by name: those of the catalog's systems, sized as a command says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from itertools import combinations, pairwise

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.schema.system import Simulated, System
from lvlm_atlas.serving.policy import Policy, Pool

_RULES = {field.name for field in fields(Policy)} & {*Simulated.model_fields}
PLAIN = "monolithic"
"""The policy that others are held against: each instance runs all stages."""


def policies(systems: Mapping[str, System]) -> dict[str, tuple[System, Simulated]]:
    """All layouts that can be simulated, by their name."""
    return {layout.name: (system, layout) for system in systems.values() for layout in system.simulated}


def names(systems: Mapping[str, System]) -> Iterator[str]:
    """What `policy` knows: layouts, and systems that have one."""
    yield from policies(systems)
    yield from (id_ for id_, system in systems.items() if len(own(system)) == 1)


def own(system: System) -> list[Simulated]:
    """Layouts of a system that its id means."""
    return [layout for layout in system.simulated if not layout.variant]


def policy(systems: Mapping[str, System], text: str, devices: int | None, each: int = 1) -> Policy:
    """A policy from its name, or from name and sizes, as in `epd:2,2,4`.

    Args:
        systems: the catalog's systems, by id.
        text: the name of a layout or of a system with one, and after a colon how many instances each pool has; of
            instances that encode alone, how many devices each has may stand behind an x, as in `e-pd:2x1,1`.
        devices: all devices that there are; None: as many as the sizes come to.
        each: devices of an instance.

    Raises:
        AtlasError: there is none of that name, the sizes are none, or they come to other devices than there are.
    """
    name, colon, sizes = (part.strip() for part in text.partition(":"))
    known = policies(systems)
    if name not in known and name in systems and len(own(systems[name])) == 1:
        name = own(systems[name])[0].name
    if name not in known:
        if name in systems and systems[name].simulated:
            layouts = ", ".join(layout.name for layout in systems[name].simulated)
            raise AtlasError(f"--policy {text}: {name} has several layouts; give one of {layouts}")
        raise AtlasError(f"--policy {text}: no policy {name!r}; {suggestion(name, names(systems), known)}")
    plain = as_policy(known[name][1])
    instances = None if devices is None else devices // each
    if not colon:
        if devices is not None and devices % each:
            raise AtlasError(
                f"--policy {text}: {devices} devices make no instances of {each}; give sizes, or another --tp"
            )
        return plain.sized(_divided(plain, known[name][1], instances or len(plain.pools)))
    counts, widths = _counts(text, sizes)
    sized = plain.sized(counts, widths)
    if devices is not None and sized.devices(each) != devices:
        raise AtlasError(
            f"--policy {text}: its pools take {sized.devices(each)} devices, and there are {devices}; let the two agree"
        )
    return sized


def splits(systems: Mapping[str, System], name: str, instances: int) -> Iterator[Policy]:
    """A policy with its pools in all sizes that use so many instances.

    Raises:
        AtlasError: there is no policy of that name, or there are fewer instances than pools.
    """
    plain = policy(systems, name, instances)
    if plain.sharing == "sliced":
        yield plain
        return
    for cuts in combinations(range(1, instances), len(plain.pools) - 1):
        edges = (0, *cuts, instances)
        yield plain.sized(tuple(b - a for a, b in pairwise(edges)))


def as_policy(layout: Simulated) -> Policy:
    """A layout as the simulation takes it, with an instance in each pool."""
    rules = {name: getattr(layout, name) for name in _RULES - {"pools"}}
    pools = tuple(
        Pool(name=each.name, stages=frozenset(each.stages), modality=each.serves) for each in layout.pools
    )  # fmt: skip
    return replace(Policy(id=layout.name, pools=pools, assumptions=layout.departs), **rules)


def _divided(plain: Policy, layout: Simulated, instances: int) -> tuple[int, ...]:
    """Sizes of the pools in the proportions of the layout, each with one at least."""
    if plain.sharing == "sliced":
        return (instances,) * len(plain.pools)
    if instances < len(plain.pools):
        raise AtlasError(
            f"--policy {plain.id}: it has {len(plain.pools)} pools, and the devices make {instances} "
            f"instance{'s' if instances > 1 else ''}; give it {len(plain.pools)} or more"
        )
    shares = [each.share for each in layout.pools]
    exact = [instances * each / sum(shares) for each in shares]
    counts = [max(1, int(each)) for each in exact]
    while sum(counts) != instances:
        step = 1 if sum(counts) < instances else -1
        open_ = [i for i, count in enumerate(counts) if step > 0 or count > 1]
        counts[max(open_, key=lambda i: step * (exact[i] - counts[i]))] += step
    return tuple(counts)


def _counts(text: str, sizes: str) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    """Instances of each pool, and devices of one of them where that is given."""
    found = [re.fullmatch(r"(\d{1,4})(?:x(\d{1,3}))?", each.strip(), re.ASCII) for each in sizes.split(",")]
    pairs = [(int(each[1]), int(each[2]) if each[2] else None) for each in found if each]
    if len(pairs) < len(found) or not all(count and width != 0 for count, width in pairs):
        raise AtlasError(f"--policy {text}: {sizes!r} are no sizes; give instances of each pool, such as epd:2,2,4")
    return tuple(count for count, _ in pairs), tuple(width for _, width in pairs)
