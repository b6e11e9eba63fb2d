"""The work of the language model, operator by operator: of a prompt, of a further question, of a decoding step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lvlm_atlas.roofline.cache import Held, held, mean_held
from lvlm_atlas.roofline.kind import Kind
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.state import Extra, State


def prompt(layout: Layout, state: State, layers: dict[Kind, int]) -> list[Work]:
    """The pass that reads the prompt and yields the first token; for all requests of the batch."""
    works = [work for kind, count in layers.items() for work in prompt_layer(layout, state, kind, count)]
    output, *linked = prompt_rest(layout, state, layers)
    return [*works, output, *extras(layout, state, "prefilling"), *linked]


def prompt_rest(layout: Layout, state: State, layers: dict[Kind, int]) -> list[Work]:
    """What is outside of its layers, but for what techniques add."""
    lengths = {kind: _length(layout, state, kind) for kind in layers}
    rows = sum(lengths[kind] * count for kind, count in layers.items())
    return [*_output(layout, layout.batch), *links(layout, rows, max(lengths.values()))]


def prompt_layer(layout: Layout, state: State, kind: Kind, count: int) -> Iterator[Work]:
    """The part of `count` layers of a kind in it."""
    length = _length(layout, state, kind)
    yield from _projections(layout, layout.batch * length, count, kind)
    if kind.cross:
        yield from _cross_cache(layout, layout.batch * kind.vision, count)
        yield _attention(layout, count, length, kind.vision, length * kind.vision)
    else:
        computed = length**2 if layout.materialised else causal_pairs(length, kind.window)
        yield _attention(layout, count, length, length, computed * kind.density)
    yield from _mlp(layout, layout.batch * length, count, kind)


def question(layout: Layout, state: State, layers: dict[Kind, int], past: float) -> list[Work]:
    """The pass that reads a further question, `past` tokens after the first prompt.

    It reads the last token of the answer before too, which has not been through the model yet.
    """
    works: list[Work] = []
    new = state.text + 1
    for kind, count in layers.items():
        works += _projections(layout, layout.batch * new, count, kind)
        works.append(question_attention(layout, state, kind, count, past))
        works += _mlp(layout, layout.batch * new, count, kind)
    works += _output(layout, layout.batch)
    works += links(layout, new * sum(layers.values()), new)
    return works


def question_attention(layout: Layout, state: State, kind: Kind, count: int, past: float) -> Work:
    """The only part of it that depends on the cache: its attention in `count` layers of a kind."""
    new = state.text + 1
    found = held(layout, state, kind, past)
    if kind.cross:
        pairs = new * found.entries
    elif layout.materialised:
        pairs = new * (found.entries + new)
    else:
        before = kind.cached_vision + kind.cached_text + past
        pairs = causal_pairs(before + new, kind.window) - causal_pairs(before, kind.window)
    return _cached_attention(layout, state, count, new, found, pairs, kind)


def step(layout: Layout, state: State, layers: dict[Kind, int], rows: float, turns: int) -> list[Work]:
    """A decoding step with `rows` new tokens a request: one, or those that the target verifies at once.

    The cache has its mean length over all steps of all turns; work is linear in it.

    Args:
        layout: the model on its devices.
        state: the request.
        layers: kinds of layers.
        rows: new tokens of each request.
        turns: questions that are answered.
    """
    works: list[Work] = []
    for kind, count in layers.items():
        works += _projections(layout, layout.batch * rows, count, kind)
        works.append(step_attention(layout, state, kind, count, rows, mean_held(layout, state, kind, turns)))
        works += _mlp(layout, layout.batch * rows, count, kind)
    works += _output(layout, layout.batch * rows)
    works += extras(layout, state, "decoding")
    works += links(layout, rows * sum(layers.values()), rows)
    return works


def step_attention(layout: Layout, state: State, kind: Kind, count: int, rows: float, found: Held) -> Work:
    """The only part of a step that depends on the cache: its attention in `count` layers of a kind."""
    return _cached_attention(layout, state, count, rows, found, rows * found.entries, kind)


def rest(layout: Layout, layers: dict[Kind, int], rows: float, last: float) -> list[Work]:
    """A step or a further question without attention and without what techniques add: the same for all stacks.

    Args:
        layout: the model on its devices.
        layers: kinds of layers.
        rows: new tokens of each request.
        last: those of which the next token is wanted.
    """
    works: list[Work] = []
    for kind, count in layers.items():
        works += _projections(layout, layout.batch * rows, count, kind)
        works += _mlp(layout, layout.batch * rows, count, kind)
    works += _output(layout, layout.batch * last)
    works += links(layout, rows * sum(layers.values()), rows)
    return works


def _length(layout: Layout, state: State, kind: Kind) -> float:
    """Positions of the prompt in a layer of a kind."""
    return state.text + state.marker + (0 if layout.model.llm.cross_layers else kind.vision)


def causal_pairs(length: float, window: float | None) -> float:
    """Query-key pairs under the causal mask, each query with at most `window` keys."""
    if window is None or length <= window:
        return length * (length + 1) / 2
    return window * length - window * (window - 1) / 2


def _projections(layout: Layout, rows: float, count: int, kind: Kind) -> Iterator[Work]:
    """Queries, keys, values and output of the attention of `count` layers."""
    llm, shards = layout.model.llm, layout.shards
    width = llm.heads * llm.head_dim
    if llm.latent:
        latent = llm.latent
        query = llm.heads * (latent.nope_dim + latent.rope_dim)
        if latent.q_lora_rank:
            yield layout.linear("llm.query_down", rows, llm.hidden, latent.q_lora_rank, count)
        into = latent.q_lora_rank or llm.hidden
        yield layout.linear("llm.query", rows, into, query, count, shards=shards)
        yield layout.linear("llm.latent", rows, llm.hidden, latent.kv_lora_rank + latent.rope_dim, count)
        # In decoding the same matrix is applied to queries and outputs instead, at the same cost a row.
        up = llm.heads * (latent.nope_dim + latent.v_dim)
        yield layout.linear("llm.latent_up", rows, latent.kv_lora_rank, up, count, shards=shards)
        width = llm.heads * latent.v_dim
    else:
        yield layout.linear("llm.query", rows, llm.hidden, width, count, shards=shards)
        if not kind.cross:
            keys = llm.kv_heads * llm.head_dim
            yield layout.linear("llm.key_value", rows, llm.hidden, keys, count, shards=shards, matrices=2)
    yield layout.linear("llm.attention_output", rows, width, llm.hidden, count, shards=shards)


def _cross_cache(layout: Layout, rows: float, count: int) -> Iterator[Work]:
    llm = layout.model.llm
    keys = llm.kv_heads * llm.head_dim
    yield layout.linear("llm.cross_key_value", rows, llm.hidden, keys, count, shards=layout.shards, matrices=2)


def _attention(layout: Layout, count: int, queries: float, keys: float, pairs: float) -> Work:
    """Attention over keys that the same pass has made."""
    llm, b = layout.model.llm, layout.activation_byte
    if llm.latent:
        wide = llm.heads * (llm.latent.nope_dim + llm.latent.rope_dim)
        narrow = llm.heads * llm.latent.v_dim
        flop, moved = 2 * pairs * (wide + narrow), (queries + keys) * (wide + narrow)
    else:
        width = llm.heads * llm.head_dim
        flop, moved = 4 * pairs * width, 2 * queries * width + 2 * keys * llm.kv_heads * llm.head_dim
    scores = 4 * queries * keys * llm.heads if layout.materialised else 0.0
    return Work(
        "llm.attention", "attention", flop=layout.batch * count * flop,
        activation_byte=layout.batch * count * b * (moved + scores),
        kernels=count * (3 if layout.materialised else 1), shards=layout.shards,
    )  # fmt: skip


def _cached_attention(
    layout: Layout, state: State, count: int, rows: float, cached: Held, pairs: float, kind: Kind
) -> Work:
    """Attention over the cache, and over what the same pass adds to it."""
    llm, b, batch = layout.model.llm, layout.activation_byte, layout.batch
    byte, vision_byte = (each * layout.kv_traffic for each in (cached.byte, cached.vision_byte))
    # What is neither on the device nor fetched is not attended to.
    seen = min(1.0, state.resident + state.fetch)
    if llm.latent:
        query, output = llm.latent.kv_lora_rank + llm.latent.rope_dim, llm.latent.kv_lora_rank
        flop, moved = 2 * pairs * llm.heads * (query + output), rows * llm.heads * (query + output)
    else:
        width = llm.heads * llm.head_dim
        flop, moved = 4 * pairs * width, 2 * rows * width
    scores = 4 * rows * cached.entries * llm.heads if layout.materialised else 0.0
    split = layout.shards if llm.latent is None else 1
    return Work(
        "llm.cross_attention" if kind.cross else "llm.attention", "attention", flop=batch * count * flop * seen,
        activation_byte=batch * count * b * (moved + scores * seen), kv_byte=batch * count * byte * seen,
        vision_byte=batch * count * vision_byte * seen,
        host_byte=batch * count * byte * state.fetch / split,
        kernels=count * (3 if layout.materialised else 1),
        shards=min(split, llm.kv_heads) if llm.latent is None else 1,
    )  # fmt: skip


def _mlp(layout: Layout, rows: float, count: int, kind: Kind) -> Iterator[Work]:
    """MLP or experts of `count` layers, with norms, activation and residual sums."""
    llm, shards, b = layout.model.llm, layout.shards, layout.activation_byte
    experts = llm.experts
    if kind.dense or experts is None:
        inner = llm.intermediate
        yield layout.linear("llm.mlp_up", rows, llm.hidden, inner, count, shards=shards, matrices=2)
        yield layout.linear("llm.mlp_down", rows, inner, llm.hidden, count, shards=shards)
    else:
        inner = experts.intermediate * (experts.top_k + experts.shared)
        yield layout.linear("llm.router", rows, llm.hidden, experts.routed, count)
        # Experts that at least one of the rows chooses, if all are equally likely and rows choose independently.
        chosen = experts.routed * (1 - (1 - experts.top_k / experts.routed) ** rows)
        used, read = experts.top_k + experts.shared, chosen + experts.shared
        for name, into, out, matrices in (
            ("llm.experts_up", llm.hidden, experts.intermediate, 2),
            ("llm.experts_down", experts.intermediate, llm.hidden, 1),
        ):
            product = layout.linear(
                name, rows, into, out, count, shards=shards, matrices=matrices * used, weights=matrices * read
            )
            yield replace(product, kernels=count * matrices)  # one kernel runs all experts
    # Two norms and two residual sums move 10 widths a row on each device, the gated activation 3 of its inner ones.
    yield Work("llm.elementwise", "elementwise", activation_byte=count * b * rows * 10 * llm.hidden, kernels=4 * count)
    yield Work(
        "llm.activation", "elementwise", activation_byte=count * b * rows * 3 * inner, kernels=count, shards=shards
    )


def _output(layout: Layout, rows: float) -> Iterator[Work]:
    llm = layout.model.llm
    yield layout.linear("llm.output", rows, llm.hidden, llm.vocab, shards=layout.shards)


def extras(layout: Layout, state: State, stage: str, added: Sequence[Extra] | None = None) -> Iterator[Work]:
    """What techniques add. A row of attention that they read is formed again from queries and keys, and kept."""
    llm = layout.model.llm
    length = state.vision + state.marker + state.text
    for extra in state.extras if added is None else added:
        if extra.stage == stage:
            scores = extra.rows * length * llm.heads
            formed = 2 * scores * llm.head_dim
            yield Work(
                f"technique: {extra.technique}", "technique",
                flop=layout.batch * (formed if extra.flop is None else extra.flop),
                activation_byte=layout.batch * (extra.byte + 2 * layout.activation_byte * scores),
                kernels=1, shards=layout.shards,
            )  # fmt: skip


def links(layout: Layout, rows: float, handed: float) -> Iterator[Work]:
    """Traffic between devices: of those that share a layer, and of groups of layers with the next.

    Args:
        layout: the model on its devices.
        rows: rows of a request, over all layers.
        handed: rows that go from one group of layers to the next.
    """
    width = layout.model.llm.hidden
    yield from layout.all_reduce("llm", layout.batch * rows, width, layout.shards)
    if layout.hops:
        byte = layout.hops * layout.batch * handed * width * layout.activation_byte
        yield Work("llm.pipeline", "link", link_byte=byte)
