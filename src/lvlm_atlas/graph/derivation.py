"""The rules that derive interactions from what entries declare.

A rule speaks only where the declared fields leave no doubt. None derives `composes-with`: that nothing is
known against a pair does not mean that somebody knows it to work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.places import effect_place
from lvlm_atlas.schema.effect import Change, Effect
from lvlm_atlas.schema.expression import evaluate, names_in
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import PositionTerm

Pairs = Iterator[tuple[str, str, str]]
"""Start, end and reason of each edge; the ends of a symmetric one in ascending order."""


@dataclass(frozen=True)
class Derivation:
    """One rule."""

    id: str
    """Stands as the source of the edges it derives."""
    kind: str
    """Kind of those edges."""
    why: str
    """What it concludes, from what, and why that is sure."""
    pairs: Callable[[Atlas], Pairs]
    """Finds the edges."""


def _rule(id_: str, *, kind: str) -> Callable[[Callable[[Atlas], Pairs]], Derivation]:
    """Make the rule of a function; its docstring says why."""

    def made(function: Callable[[Atlas], Pairs]) -> Derivation:
        return Derivation(id_, kind, " ".join((function.__doc__ or "").split()), function)

    return made


@_rule("exclusive-slot", kind="conflicts-with")
def exclusive_slot(atlas: Atlas) -> Pairs:
    """Two techniques that act at the same exclusive place cannot share a stack: one at most can own it.

    That holds even if one builds on the other, which then brings the other's method along.
    """
    exclusive = {t.id: t for t in atlas.terms("position") if isinstance(t, PositionTerm) and t.exclusive}
    for one, two in combinations(sorted(atlas.techniques.values(), key=lambda t: t.id), 2):
        shared = [place for place in one.acts_at if place in exclusive and place in two.acts_at]
        if not shared:
            continue
        places = " and ".join(f"`{place}`" for place in shared)
        reason = f"Both act at {places}, which one technique at most can own in a stack."
        for builder, base in ((one, two), (two, one)):
            if any(i.kind == "builds-on" and atlas.technique(i.with_) is base for i in builder.interactions):
                reason += f" {builder.name} builds on {base.name} and already includes it."
        yield one.id, two.id, reason


@_rule("map-without-kernel", kind="conflicts-with")
def map_without_kernel(atlas: Atlas) -> Pairs:
    """A technique that acts at the attention operator withholds the full attention map from every other one.

    Its own operator never forms the map. Single rows are no conflict: they can be recomputed beside it. Which place
    withholds what stands in the taxonomy.
    """
    for place in atlas.terms("position"):
        for need in place.withholds if isinstance(place, PositionTerm) else ():
            owners = [t for t in atlas.techniques.values() if place.id in t.acts_at]
            readers = [t for t in atlas.techniques.values() if need in t.needs]
            for owner, reader in product(owners, readers):
                if owner is not reader:
                    start, end = sorted((owner.id, reader.id))
                    reason = (
                        f"{reader.name} needs `{need}`, which nobody can read once {owner.name} acts at `{place.id}`."
                    )
                    yield start, end, reason


_SUPPLY = ("frames", "pixels", "encoder.tokens", "vision-tokens", "llm.vision-tokens")
"""Quantities whose reduction leaves less for every later place."""
_DEMAND = (
    "pixels", "encoder.tokens", "vision-tokens", "llm.vision-tokens",
    "attention.density", "kv.tokens", "kv.bits", "kv.resident", "speculation",
)  # fmt: skip
"""Quantities whose cost grows with what the places before left."""


@_rule("upstream-tokens", kind="cascades-to")
def upstream_tokens(atlas: Atlas) -> Pairs:
    """A technique that leaves fewer frames, pixels or tokens hands less to every technique later in the pipeline.

    The later one is one whose effect is on those tokens, their attention, their cache entries or the
    drafting over them. The rule says where the saving goes, not that the two work together.
    """
    techniques = atlas.techniques.values()
    supply = {
        t.id: [(effect_place(atlas, t, e), e.quantity) for e in t.effects if e.quantity in _SUPPLY and _reduces(t, e)]
        for t in techniques
    }
    demand = {
        t.id: [(effect_place(atlas, t, e), e.quantity) for e in t.effects if e.quantity in _DEMAND] for t in techniques
    }
    for up in techniques:
        for down in techniques:
            fed = [(s, d) for at, s in supply[up.id] for to, d in demand[down.id] if at < to]
            if up is not down and fed:
                less, met = ([*dict.fromkeys(words)] for words in zip(*fed, strict=True))
                yield (
                    up.id,
                    down.id,
                    f"{up.name} reduces {_listed(less)} before {down.name}, "
                    f"whose effect on {_listed(met)} then starts from less.",
                )


def _reduces(technique: Technique, effect: Effect) -> bool:
    """Whether the effect leaves less than it found, as far as the entry alone can tell."""
    if not isinstance(effect, Change):
        return False
    if effect.scale is None:
        return effect.at_least is None or effect.at_most is not None
    names = names_in(effect.scale) if isinstance(effect.scale, str) else frozenset()
    if not names <= set(technique.parameters):
        return True
    defaults = {name: parameter.default for name, parameter in technique.parameters.items()}
    return evaluate(effect.scale, defaults) < 1


def _listed(words: list[str]) -> str:
    return " and ".join(f"`{word}`" for word in words)


RULES = tuple(value for value in list(vars().values()) if isinstance(value, Derivation))
"""Every rule of this module, in its order."""
