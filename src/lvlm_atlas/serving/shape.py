"""What one kind of request is to a server: its tokens, its rows in each layer, and the cache that it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from lvlm_atlas.roofline import llm
from lvlm_atlas.roofline.cache import held
from lvlm_atlas.roofline.dimensions import dimensions
from lvlm_atlas.roofline.kind import Place, cache_layers, prompt_layers
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.pipeline import Walk
from lvlm_atlas.roofline.stages import Stages
from lvlm_atlas.roofline.state import Extra, Limits, State
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.workload import Workload

STRIDE = 64
"""Tokens between the lengths at which a cache that grows unevenly is asked for; in between it is interpolated."""
GROWTH = 2.0**20
"""Tokens at which a cache that grows evenly is asked for a second time."""


class Part(NamedTuple):
    """LLM layers that are alike in the pass over a prompt."""

    place: Place
    length: float
    """Positions of the prompt in each."""
    state: float
    """Numbers in the constant state of a head; 0: there is a cache."""
    attention: Sequence[Work]
    """Attention of all of them, over the whole prompt."""
    kv_byte: float
    """What the whole prompt leaves in the cache of all of them, as a later part of the prompt reads it."""

    def share(self, start: float, end: float) -> float:
        """Share of the attention that the stretch between two shares of the prompt takes."""
        if self.place.cross or self.state or not self.length:
            return end - start
        pairs = [llm.causal_pairs(self.length * each, self.place.window) for each in (start, end, 1.0)]
        return (pairs[1] - pairs[0]) / pairs[2]


class Rows(NamedTuple):
    """Rows of a prompt in a layer of the LLM."""

    keys: float
    queries: float
    mlp: float


class Reads(NamedTuple):
    """What a decoding step of one sequence computes and moves in attention, and what its cache holds by then."""

    flop: float
    activation_byte: float
    kv_byte: float
    host_byte: float
    held_byte: float


@dataclass(slots=True, eq=False)
class Shape:
    """A kind of request under a stack. Requests of a kind share one."""

    workload: Workload
    state: State
    layout: Layout
    """The model on the devices of one instance, for one request."""
    stages: Stages
    parts: tuple[Part, ...]
    rows: tuple[Rows, ...]
    """Rows of the whole prompt in each layer."""
    uniform: bool
    """Whether all layers see the same rows."""
    extras: dict[str, tuple[Extra, ...]]
    """What techniques add, by stage."""
    attention_kernels: float
    """Kernels of attention in a decoding step."""
    attention_shards: int
    """Devices among which its cache is divided."""
    even: bool
    """Whether the cache grows by the same bytes with each token."""
    prompt: int
    """Positions of the prompt in the LLM's sequence."""
    vision: int
    """The visual ones among them."""
    frames: int
    """Images and frames that the encoder takes."""
    embedding_byte: float
    """What the encoder and adapter hand to the LLM."""
    _line: tuple[Reads, Reads] | None = None
    _table: dict[int, Reads] | None = None

    @property
    def output(self) -> int:
        """Tokens generated."""
        return self.state.output

    @property
    def step_token(self) -> float:
        """Tokens that a decoding step yields: more than one where a draft is accepted."""
        return 1 + self.state.answered.draft.accepted

    @property
    def prompt_byte(self) -> float:
        """The cache once the prompt is in."""
        return self.reads(0).held_byte

    def line(self) -> tuple[Reads, Reads]:
        """What a step reads with nothing generated yet, and how much more with each token; for an even cache."""
        if self._line is None:
            start, end = self._asked(0), self._asked(GROWTH)
            self._line = start, Reads(*((b - a) / GROWTH for a, b in zip(start, end, strict=True)))
        return self._line

    def reads(self, grown: float) -> Reads:
        """What a decoding step computes and moves once `grown` tokens have followed the prompt."""
        if self.even:
            start, slope = self.line()
            return Reads(*(a + b * grown for a, b in zip(start, slope, strict=True)))
        table = self._table = {} if self._table is None else self._table
        low = int(grown // STRIDE)
        for index in (low, low + 1):
            if index not in table:
                table[index] = self._asked(index * STRIDE)
        share = grown / STRIDE - low
        return Reads(*(a + (b - a) * share for a, b in zip(table[low], table[low + 1], strict=True)))

    def _asked(self, grown: float) -> Reads:
        """The engine's answer."""
        cached, depth = self.state.cached, self.state.answered.depth
        flop = activation = kv = host = whole = 0.0
        for layer, count in cache_layers(cached, self.stages.places).items():
            holds = held(self.layout, cached, layer, grown)
            whole += 0.0 if layer.place.borrows else count * holds.byte
            for work in llm.step_attention(self.layout, cached, layer, 1, holds, count * depth):
                flop += work.flop
                activation += work.activation_byte
                kv += work.kv_byte
                host += work.host_byte
        return Reads(flop, activation, kv, host, whole * cached.shares.kv_layers * cached.resident)


def shape(layout: Layout, workload: Workload, stack: Sequence[Applied]) -> Shape:
    """The kind of request that a workload is under a stack.

    Args:
        layout: the model on the devices of one instance, for one request.
        workload: the request; of one turn.
        stack: techniques, in pipeline order.
    """
    state = Walk(dimensions(layout, workload), stack).state()
    stages = Stages(layout, workload)
    cached, encoded, answered = state.cached, state.encoded, state.answered
    layers = list(_rows(layout, state, stages.places))
    vision = round(encoded.marker if encoded.visual.cross_token else encoded.vision)
    steps = [
        work
        for layer, count in cache_layers(cached, stages.places).items()
        for work in llm.step_attention(layout, cached, layer, 1, held(layout, cached, layer, 1), count * answered.depth)
    ]
    return Shape(
        workload=workload, state=state, layout=layout, stages=stages,
        parts=tuple(_parts(layout, state, stages)), rows=tuple(layers),
        uniform=len(set(layers)) == 1 and layers[0].keys == layers[0].queries == layers[0].mlp,
        extras={
            stage: tuple(each for each in state.extras if each.stage == stage)
            for stage in ("encoding", "prefilling", "decoding")
        },
        attention_kernels=sum(each.kernels for each in steps), attention_shards=min(each.shards for each in steps),
        even=_even(state, stages.places), prompt=vision + encoded.text, vision=vision,
        frames=encoded.visual.frames,
        embedding_byte=encoded.vision * layout.model.llm.hidden * layout.activation_byte,
    )  # fmt: skip


def _even(state: State, places: Sequence[Place]) -> bool:
    cached = state.cached
    return (
        not any(each.window for each in places)
        and not any(bits.uneven for bits in cached.bits)
        and all(each == Limits() for each in cached.limits)
    )


def _rows(layout: Layout, state: State, places: Sequence[Place]) -> Sequence[Rows]:
    """Rows of the prompt in each layer."""
    filled = state.prefilled
    cross = bool(layout.model.llm.cross_layers)

    def row(layer: int) -> Rows:
        text = filled.text[layer]
        if cross:
            return Rows(text, text, text)
        return Rows(text + filled.vision[layer], text + filled.queries[layer], text + filled.mlp[layer])

    return [row(layer) for layer in range(len(places))]


def _parts(layout: Layout, state: State, stages: Stages) -> Sequence[Part]:
    """The kinds of layers of the pass over the prompt, with their attention."""
    filled = state.prefilled
    kinds = prompt_layers(filled, stages.places)
    byte = _prompt_kv_byte(layout, state, stages)
    total = sum(llm.prompt_length(layout, layer) * count for layer, count in kinds.items()) or 1.0
    parts = []
    for layer, count in kinds.items():
        works = [
            work
            for work in llm.prompt_layer(layout, filled.shares.kv_layers, layer, count)
            if work.kind == "attention" or work.name == "llm.cross_key_value"
        ]
        length = llm.prompt_length(layout, layer)
        parts.append(Part(layer.place, length, layer.state, works, byte * length * count / total))
    return parts


def _prompt_kv_byte(layout: Layout, state: State, stages: Stages) -> float:
    layers = cache_layers(state.cached, stages.places)
    return sum(count * held(layout, state.cached, layer, 0).byte for layer, count in layers.items())


def runs(rows: Sequence[Rows], places: Sequence[Place]) -> list[tuple[Rows, Place, int]]:
    """Layers that are alike, and how many there are."""
    counts: dict[tuple[Rows, Place], int] = {}
    for kind, run in groupby(zip(rows, places, strict=True)):
        counts[kind] = counts.get(kind, 0) + len([*run])
    return [(row, place, count) for (row, place), count in counts.items()]
