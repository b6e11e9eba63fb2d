"""Layers of the language model that are alike, so that they are evaluated once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from lvlm_atlas.roofline.model import Llm
from lvlm_atlas.roofline.state import Cached, Limits, Prefilled

_Kind = TypeVar("_Kind", bound=Hashable)


class Place(NamedTuple):
    """What the index of a layer decides."""

    window: int | None
    """Width of its sliding window; None: it attends to the whole sequence."""
    cross: bool
    """Whether it attends to the vision tokens instead of to the sequence."""
    dense: bool
    """Whether its MLP is one, and not a mixture of experts."""
    wide: bool = False
    """Whether it has heads other than most layers, since it attends to everything."""
    linear: bool = False
    """Whether it keeps a state of constant size in place of a cache."""
    borrows: bool = False
    """Whether it attends to the keys and values of an earlier layer, and keeps none."""


class PromptLayer(NamedTuple):
    """What the pass over the prompt depends on in a layer."""

    vision: float
    """Vision tokens alive in it."""
    text: float
    """Other positions."""
    density: float
    """Share of the score matrix computed."""
    place: Place
    queries: float
    """Vision tokens that are queries of its attention."""
    mlp: float
    """Vision tokens that pass through its MLP."""
    state: float
    """Numbers in the constant state of a key-value head; 0: it has a cache."""


class CacheLayer(NamedTuple):
    """What reading the cache depends on in a layer."""

    vision: float
    """Vision entries of its cache, a head."""
    text: float
    """Text entries of its cache, a head."""
    place: Place
    limits: Limits
    """The most entries while decoding."""
    state: float
    """Numbers in the constant state of a key-value head; 0: it has a cache."""
    read: float
    """Share of the entries that a decoding step reads."""
    stored: tuple[int, int]
    """How its vision and its text entries are quantised, as of `Cached`."""


PromptLayers = dict[PromptLayer, int]
CacheLayers = dict[CacheLayer, int]
"""How many layers there are of each kind."""


def places(llm: Llm) -> tuple[Place, ...]:
    """The places of all layers."""
    own = llm.layers - llm.borrowing_layers
    linear = llm.linear.layers if llm.linear else frozenset()
    return tuple(
        Place(
            llm.window if layer in llm.local_layers else None, layer in llm.cross_layers, _is_dense(llm, layer),
            llm.global_heads is not None and layer not in llm.local_layers, layer in linear, layer >= own,
        )
        for layer in range(llm.layers)
    )  # fmt: skip


def _is_dense(llm: Llm, layer: int) -> bool:
    """Whether the MLP of a layer is one, and not a mixture of experts."""
    experts = llm.experts
    return experts is None or layer < experts.dense_layers or bool((layer + 1) % experts.step)


def prompt_layers(prefilled: Prefilled, at: Sequence[Place]) -> PromptLayers:
    """The kinds of layers that the pass over the prompt meets."""
    layers = zip(
        prefilled.vision, prefilled.text, prefilled.density, at, prefilled.queries, prefilled.mlp, prefilled.state,
        strict=True,
    )  # fmt: skip
    return {PromptLayer(*kind): count for kind, count in alike(layers).items()}


def cache_layers(cached: Cached, at: Sequence[Place]) -> CacheLayers:
    """The kinds of layers that later passes meet."""
    return {CacheLayer(*kind): count for kind, count in alike(_columns(cached, at)).items()}


def each_cache_layer(cached: Cached, at: Sequence[Place]) -> Iterator[CacheLayer]:
    """The same in the order of the layers, kind by kind as they come."""
    return map(CacheLayer._make, _columns(cached, at))


def _columns(cached: Cached, at: Sequence[Place]) -> Iterator[tuple[Any, ...]]:
    return zip(
        cached.vision, cached.text, at, cached.limits, cached.state, cached.read, cached.stored, strict=True
    )  # fmt: skip


def alike(layers: Iterable[_Kind]) -> dict[_Kind, int]:
    """How many layers there are of each kind, in order of the first. Most follow one of their own kind, and comparing
    is faster than hashing.
    """
    counts: dict[_Kind, int] = {}
    for kind, run in groupby(layers):
        counts[kind] = counts.get(kind, 0) + len([*run])
    return counts
