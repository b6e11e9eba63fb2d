"""Laws of the pipeline: interactions that follow from where two techniques act, and on what.

A law holds for most pairs of techniques, and says of each what one sentence says of all. So its edges are derived for
the techniques that somebody asks about, and none is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.places import effect_place
from lvlm_atlas.schema.effect import Change, Effect
from lvlm_atlas.schema.expression import evaluate, names_in
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import PositionTerm, QuantityTerm


class Placed(NamedTuple):
    """One effect of a technique and where in the pipeline it happens."""

    technique: Technique
    effect: Effect
    order: int
    """The place, as positions count them."""
    reduces: bool
    """Whether it leaves less than it receives, as far as the entry alone can tell."""
    supplies: bool
    """Whether less of its quantity leaves less for every later place."""
    demands: bool
    """Whether the cost of its quantity grows with what the places before left."""

    @property
    def quantity(self) -> str:
        """What it changes."""
        return self.effect.quantity

    @property
    def fixes(self) -> bool:
        """Whether what it leaves is a number of its own, not a share of what it receives."""
        return isinstance(self.effect, Change) and not (self.effect.set is None and self.effect.cap is None)

    def overlaps(self, other: Placed) -> bool:
        """Whether both change the same part of the same quantity: vision and text entries of a cache are two parts."""
        if self.quantity != other.quantity:
            return False
        parts = {getattr(each.effect, "of", "all") for each in (self, other)} - {"all"}
        return len(parts) < 2


Reason = Callable[[Collection[Placed], Collection[Placed]], str | None]
"""Why the first technique stands so to the second, from the effects of both; None if it does not."""


class Law(NamedTuple):
    """One law."""

    id: str
    """Stands as the source of the edges it derives."""
    kind: str
    """Kind of those edges."""
    why: str
    """What it concludes, from what, and why that is sure."""
    yields_to: frozenset[str]
    """Kinds of edges that settle a pair better: where there is one, the law derives nothing."""
    reason: Reason
    """Why two techniques stand so."""


def _law(id_: str, *, kind: str, yields_to: Collection[str] = ()) -> Callable[[Reason], Law]:
    """Make a law of a function; its docstring says why."""

    def decorate(function: Reason) -> Law:
        return Law(id_, kind, " ".join((function.__doc__ or "").split()), frozenset(yields_to), function)

    return decorate


@_law("upstream-tokens", kind="cascades-to")
def upstream_tokens(up: Collection[Placed], down: Collection[Placed]) -> str | None:
    """A technique that leaves fewer frames, pixels or tokens hands less to every technique later in the pipeline.

    The later one is one whose effect is on those tokens, their attention, their cache entries or the drafting over
    them. The law says where the saving goes, not that the two work together.
    """
    fed = [
        (supply, demand)
        for supply in up
        if supply.reduces and supply.supplies
        for demand in down
        if demand.demands and supply.order < demand.order
    ]
    if not fed:
        return None
    supply, demand = fed[0]
    return (
        f"{supply.technique.name} reduces {_listed(each.quantity for each, _ in fed)} before {demand.technique.name}, "
        f"whose effect on {_listed(each.quantity for _, each in fed)} then starts from less."
    )


@_law("same-quantity", kind="diminishes", yields_to=("diminishes", "composes-with", "conflicts-with"))
def same_quantity(one: Collection[Placed], two: Collection[Placed]) -> str | None:
    """Of two techniques that reduce the same quantity, the later one finds less of it to remove.

    Where both act at the same place, either may come second. A technique that leaves a fixed number also takes from
    an earlier one, whose saving counts no further than to there. What a source says of the pair outweighs the law.
    """
    for first in one:
        for second in two:
            if not (first.reduces and second.reduces and first.overlaps(second)):
                continue
            what, name, other = f"`{first.quantity}`", first.technique.name, second.technique.name
            if first.order < second.order:
                return f"Both reduce {what}: {name} comes first, so that {other} finds less to remove."
            if first.order == second.order:
                return f"Both reduce {what} at the same place: after {name}, {other} finds less to remove."
            if first.fixes:
                return f"Both reduce {what}: {name} comes later and leaves a fixed number, whatever {other} removed."
    return None


LAWS = tuple(value for value in list(vars().values()) if isinstance(value, Law))
"""Every law of this module, in its order."""


class Laws:
    """The laws over one atlas."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self._placed: dict[str, tuple[Placed, ...]] = {}

    def placed(self, id_: str) -> tuple[Placed, ...]:
        """The effects of a technique, each with its place."""
        if id_ not in self._placed:
            technique = self.atlas.techniques[id_]
            self._placed[id_] = tuple(
                Placed(
                    technique, effect, effect_place(self.atlas, technique, effect), _reduces(technique, effect),
                    effect.quantity in self._supply, effect.quantity in self._demand,
                )
                for effect in technique.effects
            )  # fmt: skip
        return self._placed[id_]

    def hold(self, start: str, end: str, kind: str | None = None) -> Iterator[tuple[Law, str]]:
        """The laws by which `start` stands to `end`, or those of one kind, each with its reason."""
        for law in LAWS:
            if kind in (None, law.kind) and (reason := law.reason(self.placed(start), self.placed(end))):
                yield law, reason

    def cascades(self, one: str, two: str) -> bool:
        """Whether a reduction at one place of the pipeline leaves less for what acts at another.

        Args:
            one: id of a position.
            two: id of another.

        Raises:
            UnknownIdError: there is no such position.
        """
        orders = [self._order(position) for position in (one, two)]
        return None not in orders and self._cascades(*(order or 0 for order in orders))

    def cascading(self) -> Iterator[tuple[PositionTerm, PositionTerm]]:
        """Each two places of which the first cascades to the second."""
        return ((one, two) for one in self._places for two in self._places if self.cascades(one.id, two.id))

    def feeds(self, id_: str) -> tuple[PositionTerm, ...]:
        """The places that receive less for what a technique reduces; none if it reduces neither frames nor tokens."""
        supply = [each.order for each in self.placed(id_) if each.reduces and each.supplies]
        return tuple(place for place in self._places if supply and self._cascades(min(supply), place.order or 0))

    def fed_by(self, id_: str) -> tuple[PositionTerm, ...]:
        """The places at which a reduction leaves less for a technique."""
        demand = [each.order for each in self.placed(id_) if each.demands]
        return tuple(place for place in self._places if demand and self._cascades(place.order or 0, max(demand)))

    def _cascades(self, one: int, two: int) -> bool:
        return one < two and one <= self._last(self._supply) and two <= self._last(self._demand)

    @cached_property
    def _supply(self) -> dict[str, QuantityTerm]:
        """Quantities whose reduction leaves less for every later place, by id."""
        return {id_: term for id_, term in self._quantities.items() if term.supplies}

    @cached_property
    def _demand(self) -> dict[str, QuantityTerm]:
        """Quantities whose cost grows with what the places before left, by id."""
        return {id_: term for id_, term in self._quantities.items() if term.demands}

    @cached_property
    def _quantities(self) -> dict[str, QuantityTerm]:
        return {term.id: term for term in self.atlas.terms("quantity") if isinstance(term, QuantityTerm)}

    @cached_property
    def _places(self) -> tuple[PositionTerm, ...]:
        places = (term for term in self.atlas.terms("position") if isinstance(term, PositionTerm))
        return tuple(sorted((term for term in places if term.order is not None), key=lambda term: term.order or 0))

    def _order(self, position: str) -> int | None:
        term = self.atlas.term("position", position)
        return term.order if isinstance(term, PositionTerm) else None

    def _last(self, quantities: Mapping[str, QuantityTerm]) -> int:
        """The last place at which one of the quantities is changed."""
        return max((self._order(term.position) or 0 for term in quantities.values() if term.position), default=0)


def _reduces(technique: Technique, effect: Effect) -> bool:
    """Whether the effect leaves less than it receives, as far as the entry alone can tell."""
    if not isinstance(effect, Change):
        return False
    if effect.scale is None:
        return effect.at_least is None or effect.at_most is not None
    names = names_in(effect.scale) if isinstance(effect.scale, str) else frozenset()
    if not names <= set(technique.parameters):
        return True
    defaults = {name: parameter.default for name, parameter in technique.parameters.items()}
    return evaluate(effect.scale, defaults) < 1


def _listed(words: Iterator[str]) -> str:
    return " and ".join(f"`{word}`" for word in dict.fromkeys(words))
