"""The rules that derive interactions from what entries declare.

A rule speaks only where the declared fields leave no doubt. None derives `composes-with`: that nothing is
known against a pair does not mean that somebody knows it to work. What holds for most pairs is a law, in `laws.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import NamedTuple

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import PositionTerm

Pairs = Iterator[tuple[str, str, str]]
"""Start, end and reason of each edge; the ends of a symmetric one in ascending order."""


class Derivation(NamedTuple):
    """One rule."""

    id: str
    """Stands as the source of the edges it derives."""
    kind: str
    """Kind of those edges."""
    why: str
    """What it concludes, from what, and why that is sure."""
    pairs: Callable[[Atlas, str | None], Pairs]
    """Finds the edges, or those that touch the technique of an id."""


def _rule(id_: str, *, kind: str) -> Callable[[Callable[[Atlas, str | None], Pairs]], Derivation]:
    """Make the rule of a function; its docstring says why."""

    def made(function: Callable[[Atlas, str | None], Pairs]) -> Derivation:
        return Derivation(id_, kind, " ".join((function.__doc__ or "").split()), function)

    return made


@_rule("exclusive-slot", kind="conflicts-with")
def exclusive_slot(atlas: Atlas, of: str | None = None) -> Pairs:
    """Two techniques that act at the same exclusive place cannot share a stack: one at most can own it.

    That holds even if one builds on the other, which then brings the other's method along.
    """
    exclusive = {t.id for t in atlas.terms("position") if isinstance(t, PositionTerm) and t.exclusive}
    owners = sorted((t for t in atlas.techniques.values() if not exclusive.isdisjoint(t.acts_at)), key=lambda t: t.id)
    bases = {t.id: {atlas.technique(i.with_).id for i in t.interactions if i.kind == "builds-on"} for t in owners}
    for one, two in combinations(owners, 2):
        if of not in (None, one.id, two.id):
            continue
        shared = [place for place in one.acts_at if place in exclusive and place in two.acts_at]
        if not shared:
            continue
        places = " and ".join(f"`{place}`" for place in shared)
        reason = f"Both act at {places}, which one technique at most can own in a stack."
        for builder, base in ((one, two), (two, one)):
            if base.id in bases[builder.id]:
                reason += f" {builder.name} builds on {base.name} and already includes it."
        yield one.id, two.id, reason


@_rule("map-without-kernel", kind="conflicts-with")
def map_without_kernel(atlas: Atlas, of: str | None = None) -> Pairs:
    """A technique that acts at the attention operator withholds the full attention map from every other one.

    Its own operator never forms the map. Single rows are no conflict: they can be recomputed beside it. Which place
    withholds what stands in the taxonomy.
    """
    for place in atlas.terms("position"):
        for need in place.withholds if isinstance(place, PositionTerm) else ():
            owners = [t for t in atlas.techniques.values() if place.id in t.acts_at]
            readers = [t for t in atlas.techniques.values() if need in t.needs]
            for owner, reader in product(owners, readers):
                if owner is not reader and of in (None, owner.id, reader.id):
                    start, end = sorted((owner.id, reader.id))
                    reason = (
                        f"{reader.name} needs `{need}`, which nobody can read once {owner.name} acts at `{place.id}`."
                    )
                    yield start, end, reason


@_rule("withheld-need", kind="conflicts-with")
def withheld_need(atlas: Atlas, of: str | None = None) -> Pairs:
    """What one technique withholds, no other finds that needs it and acts later, or after it at the same place.

    Two techniques conflict if that holds whichever stands first in a stack. What is needed is taken to be read where
    the technique acts last, and withheld from where it acts first.
    """
    place = {term.id: index for index, term in enumerate(atlas.terms("position"))}
    techniques = atlas.techniques.values()
    first = {t.id: min(place[id_] for id_ in t.acts_at) for t in techniques}
    last = {t.id: max(place[id_] for id_ in t.acts_at) for t in techniques}
    readers: dict[str, list[Technique]] = defaultdict(list)
    for technique in techniques:
        for need in technique.needs:
            readers[need].append(technique)
    for owner in techniques:
        for reader in {t.id: t for need in owner.withholds for t in readers[need]}.values():
            if owner is reader or of not in (None, owner.id, reader.id) or first[owner.id] > last[reader.id]:
                continue
            at_once = first[owner.id] == last[reader.id]
            if at_once and not (first[reader.id] <= last[owner.id] and _missing(reader, owner)):
                continue
            start, end = sorted((owner.id, reader.id))
            named = " and ".join(f"`{need}`" for need in _missing(owner, reader))
            yield start, end, f"{reader.name} needs {named}, which nobody finds behind {owner.name}."


def _missing(owner: Technique, reader: Technique) -> list[str]:
    """What a technique needs and another withholds."""
    return [need for need in owner.withholds if need in reader.needs]


RULES = tuple(value for value in list(vars().values()) if isinstance(value, Derivation))
"""Every rule of this module, in its order."""
