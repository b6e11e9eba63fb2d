"""How much is known against or for a stack: an ordinal scale, from declared facts alone."""

from __future__ import annotations

from lvlm_atlas.schema.effect import Speculation
from lvlm_atlas.schema.technique import Technique

RISKS = ("exact", "reported", "lossy", "unknown")
"""From least to most. `exact`: every technique only drafts and verifies, and its entry declares the output unchanged.
`reported`: others too, each with results that a source reports. `lossy`: others too, some without any reported result.
`unknown`: nobody has said whether some two of them work together. Pairs of the first three are all known to work."""
UNKNOWN = RISKS.index("unknown")


def risk(technique: Technique) -> int:
    """Place of a technique on the scale."""
    if all(isinstance(effect, Speculation) and effect.exact != "no" for effect in technique.effects):
        return RISKS.index("exact")
    return RISKS.index("reported" if technique.reported else "lossy")
