"""What a technique declares follows the order of the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.rules.rule import Finding, rule
from lvlm_atlas.rules.sample import ALPHA
from lvlm_atlas.schema.vocabulary import PositionTerm, QuantityTerm


@rule(
    id="effect-before-action",
    message="{quantity!r} is decided at {position!r}, before {first!r} where the technique first acts",
    repair="add {position} to `acts_at`, or correct the effect",
    why="Nothing can change what has already happened in the pipeline.",
    example=lambda files: files[ALPHA]["effects"].append({"quantity": "vision-tokens", "scale": 0.5}),
)
def effect_before_action(inspection: Inspection) -> Iterator[Finding]:
    """Effects on quantities whose place in the pipeline lies before the technique's first."""
    orders = _orders(inspection)
    places = _quantity_places(inspection)
    for technique in inspection.atlas.techniques.values():
        acts = [place for place in technique.acts_at if place in orders]
        if not acts or len(acts) < len(technique.acts_at):
            continue
        first = min(acts, key=orders.__getitem__)
        for index, effect in enumerate(technique.effects):
            position = places.get(effect.quantity)
            if position in orders and orders[position] < orders[first]:
                yield Finding(
                    path=inspection.atlas.paths[technique.id],
                    loc=("effects", index, "quantity"),
                    words={"quantity": effect.quantity, "position": position, "first": first},
                )


@rule(
    id="acts-at-in-order",
    message="`acts_at` names {later!r} before {earlier!r}",
    repair="list the positions in pipeline order",
    why="Readers take the first position for the place where the technique begins.",
    example=lambda files: files[ALPHA].update(acts_at=["llm-layer", "llm-input"]),
)
def acts_at_in_order(inspection: Inspection) -> Iterator[Finding]:
    """The order of `acts_at`."""
    orders = _orders(inspection)
    for technique in inspection.atlas.techniques.values():
        known = [(index, place) for index, place in enumerate(technique.acts_at) if place in orders]
        for (_, before), (index, after) in pairwise(known):
            if orders[after] < orders[before]:
                path = inspection.atlas.paths[technique.id]
                yield Finding(path=path, loc=("acts_at", index), words={"later": before, "earlier": after})


def _orders(inspection: Inspection) -> dict[str | None, int]:
    """Place in the pipeline of each live position."""
    vocabulary = inspection.atlas.vocabularies.get("position")
    terms = vocabulary.terms if vocabulary else ()
    return {t.id: t.order for t in terms if isinstance(t, PositionTerm) and t.order is not None}


def _quantity_places(inspection: Inspection) -> dict[str, str | None]:
    vocabulary = inspection.atlas.vocabularies.get("quantity")
    terms = vocabulary.terms if vocabulary else ()
    return {t.id: t.position for t in terms if isinstance(t, QuantityTerm)}
