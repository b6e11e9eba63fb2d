"""The grid of patches that an adapter gets."""

from __future__ import annotations

import math

from lvlm_atlas.reference.lvlm.points import Adapter, Run
from lvlm_atlas.reference.refusal import Refusal


def expect_whole_grid(run: Run) -> None:
    """Check that nothing in the stack drops or merges patches on their way to the adapter.

    Raises:
        Refusal: a technique that needs `free-patches` acts in the encoder's layers or at its output.
    """
    for technique in run.techniques:
        if "free-patches" in technique.needs and {"encoder-layer", "encoder-output"} & {*technique.acts_at}:
            raise Refusal(
                f"the adapter reads the whole grid of patches, which {type(technique).__name__} may change; "
                f"leave one of them out"
            )


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
