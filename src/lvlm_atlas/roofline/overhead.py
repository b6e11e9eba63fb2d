"""What techniques add to the stages of a request, in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lvlm_atlas.roofline.state import Answered, Encoded, Extra
from lvlm_atlas.roofline.transform import Applied, Names, value

LLM_QUANTITIES = (
    "llm.vision-tokens", "llm.vision-queries", "llm.vision-mlp", "llm.weights", "attention.density", "kv.tokens",
    "kv.layers", "kv.state", "kv.resident", "kv.read", "llm.depth",
)  # fmt: skip
"""Quantities that change in the LLM: after the encoder, before the length of the answer is known."""


def extras(technique: Applied, encoded: Encoded, entries: float, answered: Answered) -> Iterator[Extra]:
    """What a technique adds, at so many entries of a layer's cache. Symbols stand for what it meets where it acts."""
    symbols = _where_it_acts(technique, encoded, answered)
    for overhead in technique.overheads:
        names = {**symbols, **technique.parameters}
        if overhead.stage == "decoding":
            names["N"] = entries
        layers = None
        if overhead.from_layer is not None:
            end = math.inf if overhead.to_layer is None else value(overhead.to_layer, names)
            layers = (value(overhead.from_layer, names), end)
        yield Extra(
            technique=technique.label,
            stage=overhead.stage,
            flop=None if overhead.flop is None else value(overhead.flop, names),
            byte=value(overhead.byte, names),
            rows=value(overhead.attention_rows, names),
            layers=layers,
            heads=None if overhead.heads is None else value(overhead.heads, names),
            memory_byte=value(overhead.memory_byte, names),
            steps=value(overhead.sequential_steps, names),
            host_syncs=value(overhead.host_syncs, names),
            serial=overhead.serialises_batch,
        )


def _where_it_acts(technique: Applied, encoded: Encoded, answered: Answered) -> Names:
    """What the symbols stand for where a technique first acts."""
    if technique.id in encoded.first:
        return encoded.first[technique.id]
    if any(change.quantity in LLM_QUANTITIES for change in technique.changes):
        return encoded.symbols
    return answered.first.get(technique.id, answered.symbols)
