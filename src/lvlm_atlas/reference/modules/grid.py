"""The grid of patches that an adapter gets."""

from __future__ import annotations

import math

from lvlm_atlas.reference.lvlm.points import Adapter, Run
from lvlm_atlas.reference.refusal import Refusal


def square_side(at: Adapter, run: Run) -> int:
    """Patches along a side of the square that an adapter gets, row after row.

    Raises:
        Refusal: some patches were dropped or merged, or they form no square.
    """
    tokens = at.hidden_FND.shape[1]
    side = math.isqrt(tokens)
    # Summaries of patches may be as many as patches; those who make them leave no class token to cut off.
    own = tokens == run.config.vision.patches and at.patches.prefix == run.config.class_tokens
    whole = own or run.acts.owner("encoder") is not None
    if not whole or side**2 != tokens:
        raise Refusal(
            f"the adapter reads a whole square of patches, such as the {run.config.vision.patches} of this model, but "
            f"gets {tokens}; leave out what drops or merges patches before it"
        )
    return side
