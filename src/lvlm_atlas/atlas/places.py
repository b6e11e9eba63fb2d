"""Where in the pipeline an effect of a technique happens."""

from __future__ import annotations

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.schema.effect import Change, Effect, OutputTokens
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import PositionTerm, QuantityTerm


def effect_place(atlas: Atlas, technique: Technique, effect: Effect) -> int:
    """Where an effect happens: where it says, or the last place its technique acts at, not past the quantity's own."""
    if isinstance(effect, Change) and effect.at:
        at = atlas.term("position", effect.at)
        if isinstance(at, PositionTerm) and at.order is not None:
            return at.order
    quantity = atlas.term("quantity", effect.quantity)
    home = quantity.position if isinstance(quantity, QuantityTerm) else None
    orders = sorted(
        p.order
        for p in (atlas.term("position", id_) for id_ in technique.acts_at)
        if isinstance(p, PositionTerm) and p.order is not None
    )
    limit = atlas.term("position", home) if home else None
    if not isinstance(limit, PositionTerm) or limit.order is None:
        return orders[0]
    if isinstance(effect, OutputTokens) and "answer" in technique.acts_at:
        return limit.order + 1  # of all runs together, each of which has been ended by then
    return max((order for order in orders if order <= limit.order), default=orders[0])
