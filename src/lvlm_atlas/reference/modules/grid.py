"""The grid of patches that an adapter gets."""

from __future__ import annotations

import math

from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.refusal import Refusal


def square_side(at: Adapter, run: Run) -> int:
    """Patches along a side of the square that an adapter gets, row after row.

    Raises:
        Refusal: they form no square.
    """
    tokens = at.hidden_FND.shape[1]
    side = math.isqrt(tokens)
    if side**2 != tokens:
        raise Refusal(f"the adapter reads a square of patches, but {type(run.config).__name__} gives it {tokens}")
    return side
