"""Layers of the language model that are alike, so that they are evaluated once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.state import State


@dataclass(frozen=True, slots=True)
class Kind:
    """What tells layers of the LLM apart; those of a kind are taken together."""

    vision: float
    """Vision tokens alive in the layer."""
    density: float
    """Share of the score matrix computed."""
    cached_vision: float
    """Vision entries of its cache, a head."""
    cached_text: float
    """Text entries of its cache, a head."""
    window: int | None
    """Width of its sliding window; None: it attends to the whole sequence."""
    cross: bool
    """Whether it attends to the vision tokens instead of to the sequence."""
    dense: bool
    """Whether its MLP is one, and not a mixture of experts."""


Place = tuple[int | None, bool, bool]
"""What the place of a layer alone decides: `window`, `cross` and `dense` of its kind."""


def places(layout: Layout) -> list[Place]:
    """The places of all layers."""
    llm = layout.model.llm
    dense = llm.experts.dense_layers if llm.experts else llm.layers
    return [
        (llm.window if layer in llm.local_layers else None, layer in llm.cross_layers, layer < dense)
        for layer in range(llm.layers)
    ]


def kinds(layout: Layout, state: State) -> dict[Kind, int]:
    """The kinds of layers, and how many there are of each."""
    return counted(state.vision_at, state.density, state.cached_vision, state.cached_text, places(layout))


def counted(
    visions: Sequence[float],
    densities: Sequence[float],
    cached_visions: Sequence[float],
    cached_texts: Sequence[float],
    at: Sequence[Place],
) -> dict[Kind, int]:
    """The kinds of layers and their numbers, from what holds in each layer."""
    found = Counter(zip(visions, densities, cached_visions, cached_texts, at, strict=True))
    return {
        Kind(vision, density, seen, read, *place): count
        for (vision, density, seen, read, place), count in found.items()
    }
