"""The work of the language model, operator by operator: parts of a prompt, a further question and a decoding step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from lvlm_atlas.roofline.cache import Held, held, linear_state_byte
from lvlm_atlas.roofline.kind import CacheLayer, Place, PromptLayer, PromptLayers
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.state import Cached, Encoded, Extra, Prefilled


def prompt_layer(layout: Layout, kv_layers: float, layer: PromptLayer, count: float) -> Iterator[Work]:
    """The pass over the prompt in `count` layers of a kind; for all requests of the batch.

    Args:
        layout: the model on its devices.
        kv_layers: share of layers that project keys and values of their own.
        layer: the kind.
        count: how many layers.
    """
    length, place = prompt_length(layout, layer), layer.place
    queries = prompt_length(layout, layer, layer.queries)
    yield from projections(layout, place, length, count, queries=queries, kv_layers=kv_layers)
    if place.cross:
        yield from _cross_cache(layout, layout.batch * layer.vision, count)
        yield _attention(layout, count, length, layer.vision, length * layer.vision, place.wide)
    elif place.linear:
        yield _delta_attention(layout, count, queries)
    elif layer.state:
        yield _state_attention(layout, count, queries, length, layer.state)
    else:
        pairs = _prompt_pairs(layout, layer, queries, length) * layer.density
        yield _attention(layout, count, queries, length, pairs, place.wide)
    yield from mlp(layout, place, length, count, through=prompt_length(layout, layer, layer.mlp))


def _prompt_pairs(layout: Layout, layer: PromptLayer, queries: float, length: float) -> float:
    """Query-key pairs of the prompt. Vision tokens that are no queries are taken to lie evenly among the others, and
    all vision tokens before the text.
    """
    if layout.materialised:
        return queries * length
    pairs, window = causal_pairs(length, layer.place.window), layer.place.window
    if queries == length:
        return pairs
    return pairs - causal_pairs(layer.vision, window) * (1 - layer.queries / layer.vision)


def prompt_links(layout: Layout, layers: PromptLayers) -> Iterator[Work]:
    """Traffic between devices of the pass over the prompt."""
    lengths = {layer: prompt_length(layout, layer) for layer in layers}
    rows = sum(_summed_rows(layout, layer) * count for layer, count in layers.items())
    yield from links(layout, rows, max(lengths.values()), sum(layers.values()))


def prompt_length(layout: Layout, layer: PromptLayer, vision: float | None = None) -> float:
    """Positions of the prompt in a layer of a kind: text, and all its vision tokens or so many of them."""
    return layer.text + (0 if layout.model.llm.cross_layers else layer.vision if vision is None else vision)


def _summed_rows(layout: Layout, layer: PromptLayer) -> float:
    """Rows that devices sum in a layer, on average over its attention and its MLP."""
    return (prompt_length(layout, layer, layer.queries) + prompt_length(layout, layer, layer.mlp)) / 2


def question_attention(
    layout: Layout, cached: Cached, layer: CacheLayer, new: float, past: float, count: float
) -> Iterator[Work]:
    """Attention of a further question of `new` tokens, `past` tokens after the first prompt."""
    found, place = held(layout, cached, layer, past), layer.place
    if place.cross:
        pairs = new * found.entries
    elif layout.materialised:
        pairs = new * (found.entries + new)
    else:
        before = layer.vision + layer.text + past
        pairs = causal_pairs(before + new, place.window) - causal_pairs(before, place.window)
    yield _cached_attention(layout, cached, count, new, found, pairs, layer)


def step_attention(
    layout: Layout, cached: Cached, layer: CacheLayer, rows: float, found: Held, count: float
) -> Iterator[Work]:
    """Attention of a decoding step with `rows` new tokens over a cache that holds so much."""
    yield _cached_attention(layout, cached, count, rows, found, rows * found.entries, layer, layer.read)


def causal_pairs(length: float, window: float | None) -> float:
    """Query-key pairs under the causal mask, each query with at most `window` keys."""
    if window is None or length <= window:
        return length * (length + 1) / 2
    return window * length - window * (window - 1) / 2


def projections(
    layout: Layout, place: Place, new: float, count: float, *, queries: float | None = None, kv_layers: float = 1.0
) -> Iterator[Work]:
    """Queries, keys, values and output of the attention of `count` layers, for `new` tokens of each request.

    Args:
        layout: the model on its devices.
        place: the kind of layer.
        new: tokens of a request that become keys and values.
        count: how many layers.
        queries: tokens that are queries; None: the same.
        kv_layers: share of the layers that project keys and values of their own.
    """
    llm, shards = layout.model.llm, layout.shards
    rows, keys_rows = layout.batch * (new if queries is None else queries), layout.batch * new
    heads = llm.heads_at(place.wide)
    width = llm.heads * heads.head_dim
    if place.linear and llm.linear:
        yield layout.linear("llm.linear_input", rows, llm.hidden, llm.linear.inner, count, shards=shards)
        width = llm.linear.value_heads * llm.linear.value_dim
    elif llm.latent:
        latent = llm.latent
        query = llm.heads * (latent.nope_dim + latent.rope_dim)
        if latent.q_lora_rank:
            yield layout.linear("llm.query_down", rows, llm.hidden, latent.q_lora_rank, count)
        into = latent.q_lora_rank or llm.hidden
        yield layout.linear("llm.query", rows, into, query, count, shards=shards)
        narrow = latent.kv_lora_rank + latent.rope_dim
        yield layout.linear("llm.latent", keys_rows, llm.hidden, narrow, count * kv_layers)
        # In decoding the same matrix is applied to queries and outputs instead, at the same cost a row.
        up = llm.heads * (latent.nope_dim + latent.v_dim)
        yield layout.linear("llm.latent_up", keys_rows, latent.kv_lora_rank, up, count * kv_layers, shards=shards)
        width = llm.heads * latent.v_dim
    else:
        gated = 2 if llm.output_gate else 1
        yield layout.linear("llm.query", rows, llm.hidden, gated * width, count, shards=shards)
        if not (place.cross or place.borrows):
            keys = heads.kv_heads * heads.head_dim
            yield layout.linear(
                "llm.key_value", keys_rows, llm.hidden, keys, count * kv_layers, shards=shards,
                matrices=heads.projections,
            )  # fmt: skip
    yield layout.linear("llm.attention_output", rows, width, llm.hidden, count, shards=shards)


def _cross_cache(layout: Layout, rows: float, count: float) -> Iterator[Work]:
    llm = layout.model.llm
    keys = llm.kv_heads * llm.head_dim
    yield layout.linear("llm.cross_key_value", rows, llm.hidden, keys, count, shards=layout.shards, matrices=2)


def _attention(layout: Layout, count: float, queries: float, keys: float, pairs: float, apart: bool = False) -> Work:
    """Attention over keys that the same pass has made; `apart` in a layer that has heads of its own."""
    llm, b = layout.model.llm, layout.activation_byte
    if llm.latent:
        wide = llm.heads * (llm.latent.nope_dim + llm.latent.rope_dim)
        narrow = llm.heads * llm.latent.v_dim
        flop, moved = 2 * pairs * (wide + narrow), (queries + keys) * (wide + narrow)
    else:
        heads = llm.heads_at(apart)
        width = llm.heads * heads.head_dim
        flop, moved = 4 * pairs * width, 2 * queries * width + 2 * keys * heads.kv_heads * heads.head_dim
    scores = 4 * queries * keys * llm.heads if layout.materialised else 0.0
    return Work(
        "llm.attention", "attention", flop=layout.batch * count * flop,
        activation_byte=layout.batch * count * b * (moved + scores),
        kernels=count * (3 if layout.materialised else 1), shards=layout.shards,
    )  # fmt: skip


def _cached_attention(
    layout: Layout, cached: Cached, count: float, rows: float, found: Held, pairs: float, layer: CacheLayer,
    read: float = 1.0,
) -> Work:  # fmt: skip
    """Attention over the share `read` of the cache, and over what the same pass adds to it."""
    if layer.place.linear:
        return _delta_attention(layout, count, rows, found.byte)
    if layer.state:
        return _state_attention(layout, count, rows, rows, layer.state, found.byte)
    llm, b, batch = layout.model.llm, layout.activation_byte, layout.batch
    byte, vision_byte = (each * layout.kv_traffic for each in (found.byte, found.vision_byte))
    # What is neither on the device nor fetched is not attended to.
    seen = min(1.0, cached.resident + cached.fetch, read)
    if llm.latent:
        query, output = llm.latent.kv_lora_rank + llm.latent.rope_dim, llm.latent.kv_lora_rank
        flop, moved = 2 * pairs * llm.heads * (query + output), rows * llm.heads * (query + output)
    else:
        width = llm.heads * llm.heads_at(layer.place.wide).head_dim
        flop, moved = 4 * pairs * width, 2 * rows * width
    scores = 4 * rows * found.entries * llm.heads if layout.materialised else 0.0
    split = layout.shards if llm.latent is None else 1
    return Work(
        "llm.cross_attention" if layer.place.cross else "llm.attention", "attention", flop=batch * count * flop * seen,
        activation_byte=batch * count * b * (moved + scores * seen), kv_byte=batch * count * byte * seen,
        vision_byte=batch * count * vision_byte * seen,
        host_byte=batch * count * byte * cached.fetch / split,
        kernels=count * (3 if layout.materialised else 1),
        shards=min(split, llm.heads_at(layer.place.wide).kv_heads) if llm.latent is None else 1, law="cache",
    )  # fmt: skip


def _state_attention(
    layout: Layout, count: float, queries: float, keys: float, elements: float, state_byte: float = 0.0
) -> Work:
    """Attention of `count` layers with a state of so many numbers a key-value head: each key adds to it, each query
    reads it, a multiply-add a number. A pass over the prompt writes it, a later one reads and writes `state_byte`.
    """
    llm, b, batch = layout.model.llm, layout.activation_byte, layout.batch
    moved = 2 * (queries * llm.heads + keys * llm.kv_heads) * llm.head_dim * b
    written = elements * llm.kv_heads * layout.kv_byte
    return Work(
        "llm.attention", "attention",
        flop=batch * count * 2 * elements * (queries * llm.heads + keys * llm.kv_heads),
        activation_byte=batch * count * (moved + written), kv_byte=batch * count * state_byte, kernels=count,
        shards=layout.shards,
    )  # fmt: skip


def _delta_attention(layout: Layout, count: float, rows: float, state_byte: float = 0.0) -> Work:
    """Gated delta attention of `count` layers: each token takes three multiply-adds for each number of the state, to
    read what its key recalls, to correct it, and to answer its query. The convolution before it adds little.

    A pass over the prompt writes the state once, in blocks of tokens; a later one reads `state_byte`, writes as much.
    """
    linear = layout.model.llm.linear
    assert linear is not None  # noqa: S101 - a layer of the kind is asked for
    moved = 2 * (linear.channels + 2 * linear.value_heads * linear.value_dim) * layout.activation_byte
    return Work(
        "llm.linear_attention", "attention",
        flop=layout.batch * count * rows * (6 * linear.elements + 2 * linear.conv * linear.channels),
        activation_byte=layout.batch * count * (rows * moved + linear_state_byte(layout)),
        kv_byte=layout.batch * count * state_byte, kernels=2 * count, shards=layout.shards,
    )  # fmt: skip


def mlp(layout: Layout, place: Place, new: float, count: float, *, through: float | None = None) -> Iterator[Work]:
    """MLP or experts of `count` layers, for `new` tokens of each request, with norms, activation and residual sums.

    Of the tokens `through` pass the MLP; None: all.
    """
    llm, shards, b = layout.model.llm, layout.shards, layout.activation_byte
    rows = layout.batch * (new if through is None else through)
    experts = llm.experts
    if place.dense or experts is None:
        inner = llm.intermediate_at(place.borrows)
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
            yield replace(product, kernels=count * matrices, law=product.law or "grouped")  # one kernel, all experts
    # Two norms and two residual sums move 10 widths a row on each device, half of them for attention and half for the
    # MLP; the gated activation moves 3 of its inner ones.
    normed = (layout.batch * new + rows) / 2
    yield Work(
        "llm.elementwise", "elementwise", activation_byte=count * b * normed * 10 * llm.hidden, kernels=4 * count
    )
    yield Work(
        "llm.activation", "elementwise", activation_byte=count * b * rows * 3 * inner, kernels=count, shards=shards
    )
    if llm.layer_input:
        yield from _layer_input(layout, layout.batch * new, count)


def _layer_input(layout: Layout, rows: float, count: float) -> Iterator[Work]:
    """What `count` layers do with inputs of their own: each projects them from the hidden states before the first
    layer (one product for all layers), gates them by its own, and projects them back; a norm and a sum follow.
    """
    llm = layout.model.llm
    made = layout.linear("llm.layer_input", rows, llm.hidden, llm.layer_input, count, matrices=2)
    yield replace(made, kernels=count)
    yield layout.linear("llm.layer_output", rows, llm.layer_input, llm.hidden, count)
    moved = rows * (5 * llm.hidden + 3 * llm.layer_input) * layout.activation_byte
    yield Work("llm.elementwise", "elementwise", activation_byte=count * moved, kernels=3 * count)


def output(layout: Layout, last: float) -> Iterator[Work]:
    """The output matrix, for the `last` tokens of each request, of which the next is wanted."""
    llm = layout.model.llm
    yield layout.linear("llm.output", layout.batch * last, llm.hidden, llm.vocab, shards=layout.shards)


def extras(
    layout: Layout, encoded: Encoded, prefilled: Prefilled, stage: str, added: Iterable[Extra]
) -> Iterator[Work]:
    """What techniques add. A row of attention that they read is formed again from queries and keys, and kept.

    Rows of no given layer are taken to be as long as the prompt that enters.
    """
    llm = layout.model.llm
    length = encoded.vision + encoded.marker + encoded.text
    for extra in added:
        if extra.stage == stage:
            if extra.layers is None:
                rows = extra.rows * length
            else:
                vision = (0.0,) * llm.layers if llm.cross_layers else prefilled.vision
                rows = sum(last_rows(extra.rows, vision[i] + prefilled.text[i]) for i in extra.among(llm.layers))
            scores = rows * (llm.heads if extra.heads is None else extra.heads)
            formed = 2 * scores * llm.head_dim
            yield Work(
                f"technique: {extra.technique}", "technique",
                flop=layout.batch * (formed if extra.flop is None else extra.flop),
                activation_byte=layout.batch * (extra.byte + 2 * layout.activation_byte * scores),
                kernels=extra.kernels(layout.batch), shards=layout.shards,
            )  # fmt: skip


def last_rows(rows: float, length: float) -> float:
    """Scores in the last `rows` rows of a causal map of that length, for one head."""
    return causal_pairs(length, None) - causal_pairs(max(0, length - rows), None)


def links(layout: Layout, rows: float, handed: float, layers: float) -> Iterator[Work]:
    """Traffic between devices: of those that share a layer, and of groups of layers with the next.

    Args:
        layout: the model on its devices.
        rows: rows of a request, over all layers.
        handed: rows that go from one group of layers to the next.
        layers: how many layers they go through.
    """
    width = layout.model.llm.hidden
    yield from layout.all_reduce("llm", layout.batch * rows, width, layout.shards, layers)
    if layout.hops:
        byte = layout.hops * layout.batch * handed * width * layout.activation_byte
        yield Work("llm.pipeline", "link", link_byte=byte)
