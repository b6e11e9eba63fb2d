"""Facts of a model that were looked up together."""

from __future__ import annotations

from typing import Annotated

from lvlm_atlas.schema.record import Id, Record, Ref, Text


class Sourced(Record):
    """Facts that were looked up together."""

    source: Text
    """Where they were read."""
    verified: Annotated[Id, Ref("verification")]
    """Against what they were checked; a text marks single facts that are weaker with `(memory)`."""
    notes: Text | None = None
    """What a reader should know besides."""
