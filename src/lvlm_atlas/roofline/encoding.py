"""The work of the encoder and the adapter, operator by operator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from lvlm_atlas.roofline import front
from lvlm_atlas.roofline.kind import alike
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.state import Encoded, Extra, Replaced, replaced
from lvlm_atlas.roofline.visual import Patches


def encoding(layout: Layout, encoded: Encoded) -> Iterator[Work]:
    """Encoder and adapter; for all requests of the batch."""
    encoder = (
        work
        for shape, schedule in zip(encoded.visual.patches, encoded.encoder_patch, strict=True)
        for work in _encoder(layout, shape, schedule, encoded.encoder_density)
    )
    yield from _replaced(layout, encoder, encoded.encoder_flop)
    # What takes the adapter's place leaves the copies of it that make deepstack's features.
    main = 1 / layout.model.adapter.copies
    yield from _replaced(layout, _adapter(layout, encoded), encoded.adapter_flop, share=main)


def _replaced(layout: Layout, works: Iterable[Work], changes: Replaced, share: float = 1.0) -> Iterator[Work]:
    """The same operators, with the FLOPs that techniques leave of them, spread as they were; bytes stay.

    Args:
        layout: the model on its devices.
        works: the operators.
        changes: of their FLOPs, for one request.
        share: of those FLOPs, how many the changes are of.
    """
    if not changes:
        yield from works
        return
    works = [*works]
    flop = sum(work.flop for work in works)
    left = replaced(share * flop / layout.batch, changes) * layout.batch + (1 - share) * flop
    for work in works:
        yield replace(work, flop=work.flop * left / flop) if flop and left != flop else work


def _encoder(layout: Layout, shape: Patches, schedule: tuple[float, ...], density: tuple[float, ...]) -> Iterator[Work]:
    """All layers on the sequences of one shape; layers alike are taken together."""
    encoder, b = layout.model.encoder, layout.activation_byte
    count = layout.batch * shape.sequences
    width = encoder.heads * encoder.head_dim
    if encoder.front is None:
        embedding = 3 * encoder.temporal_patch_size * encoder.patch_size**2
        yield layout.linear(
            "encoder.patch_embedding", count * shape.patch, embedding, encoder.hidden, shards=layout.encoder_shards
        )
    else:
        yield from front.works(layout, encoder.front, count, shape.patch)
    other = shape.token - shape.patch
    windows = encoder.full_attention_layers is not None and shape.window_pair is not None
    kinds = alike(
        (schedule[i], schedule[i + 1], density[i], windows and i not in (encoder.full_attention_layers or ()))
        for i in range(len(schedule) - 1)
    )
    for (enters, leaves, computed, windowed), layers in kinds.items():
        rows, left = count * (enters + other), count * (leaves + other)
        kept = enters / shape.patch if shape.patch else 0.0
        # Fewer tokens in the same windows: kept evenly, each window has that share squared of its pairs.
        pairs = computed * ((shape.window_pair or 0) * kept**2 if windowed else (enters + other) ** 2)
        shards = layout.encoder_shards
        yield layout.linear("encoder.qkv", rows, encoder.hidden, 3 * width, layers, shards=shards)
        scores = count * pairs * encoder.heads
        yield Work(
            "encoder.window_attention" if windowed else "encoder.attention", "attention",
            flop=layers * 4 * count * pairs * width,
            activation_byte=layers * b * (4 * rows * width + (4 * scores if layout.materialised else 0)),
            kernels=layers * (3 if layout.materialised else 1), shards=shards,
            law="window-attention" if windowed else "encoder-attention",
        )  # fmt: skip
        yield layout.linear("encoder.output", rows, width, encoder.hidden, layers, shards=shards)
        up = 2 if encoder.gated_mlp else 1
        yield layout.linear("encoder.mlp_up", left, encoder.hidden, up * encoder.mlp, layers, shards=shards)
        yield layout.linear("encoder.mlp_down", left, encoder.mlp, encoder.hidden, layers, shards=shards)
        # Two norms and two residual sums move 10 widths a row on each device, the activation its part of the MLP.
        yield Work(
            "encoder.elementwise", "elementwise", activation_byte=layers * b * 5 * (rows + left) * encoder.hidden,
            kernels=layers * 4,
        )  # fmt: skip
        yield Work(
            "encoder.activation", "elementwise", activation_byte=layers * b * (up + 1) * left * encoder.mlp,
            kernels=layers, shards=shards,
        )  # fmt: skip
    through = sum(enters + other for enters in schedule[:-1])
    shards, layers_run = layout.encoder_shards, layout.encoder_layers
    yield from layout.all_reduce("encoder", count * through, encoder.hidden, shards, layers_run)


def _adapter(layout: Layout, encoded: Encoded) -> Iterator[Work]:
    adapter = layout.model.adapter
    rows = layout.batch * encoded.visual.adapter_token * encoded.adapter_share
    if not rows:
        return
    if adapter.queries:
        yield from _resampler(layout, encoded, rows)
        return
    if adapter.pools_by_attention:
        yield from _pooling(layout, rows)
    for index, (into, out) in enumerate(zip(adapter.widths, adapter.widths[1:], strict=False)):
        if adapter.pools_by_attention and not index:
            continue
        gate = adapter.gated and index == len(adapter.widths) - 3
        yield layout.linear(
            f"adapter.linear_{index}", rows, into, out, adapter.copies, shards=layout.encoder_shards,
            matrices=2 if gate else 1,
        )  # fmt: skip


def _pooling(layout: Layout, rows: float) -> Iterator[Work]:
    """Attention of the mean of each window of patches to those."""
    adapter = layout.model.adapter
    into, width, *_ = adapter.widths
    patches = rows * adapter.merge
    yield layout.linear("adapter.query", rows, into, width)
    yield layout.linear("adapter.key_value", patches, into, 2 * width)
    yield Work(
        "adapter.attention", "attention", flop=4 * patches * width,
        activation_byte=layout.activation_byte * (2 * rows + 2 * patches) * width, kernels=1, law="encoder-attention",
    )  # fmt: skip
    yield layout.linear("adapter.output", rows, width, width)


def _resampler(layout: Layout, encoded: Encoded, rows: float) -> Iterator[Work]:
    """One layer of cross-attention from learned queries to the patches of each sequence."""
    adapter = layout.model.adapter
    into, width = adapter.widths[0], adapter.widths[-1]
    patches = layout.batch * sum(
        each.sequences * schedule[-1]
        for each, schedule in zip(encoded.visual.patches, encoded.encoder_patch, strict=True)
    )  # fmt: skip
    pairs = patches * adapter.queries
    yield layout.linear("adapter.kv_projection", patches, into, width)
    yield layout.linear("adapter.query", rows, width, width)
    yield layout.linear("adapter.key_value", patches, width, 2 * width)
    yield Work(
        "adapter.attention", "attention", flop=4 * pairs * width,
        activation_byte=layout.activation_byte * (2 * rows + 2 * patches) * width, kernels=1,
        law="encoder-attention",
    )  # fmt: skip
    yield layout.linear("adapter.output", rows, width, width)
    yield layout.linear("adapter.projection", rows, width, width)


def extras(layout: Layout, encoded: Encoded, added: Iterable[Extra]) -> Iterator[Work]:
    """What techniques add. A row of attention that they read is formed again from queries and keys, and kept."""
    encoder, b = layout.model.encoder, layout.activation_byte
    sequences = sum(each.sequences for each in encoded.visual.patches)
    tokens = encoded.visual.encoder_token / sequences if sequences else 0.0
    for extra in added:
        if extra.stage == "encoding":
            if extra.layers is None:
                rows = extra.rows * tokens
            else:
                rows = extra.rows * sum(_mean_tokens(encoded, i) for i in extra.among(len(encoded.encoder_density)))
            scores = rows * (encoder.heads if extra.heads is None else extra.heads)
            formed = 2 * scores * encoder.head_dim
            yield Work(
                f"technique: {extra.technique}", "technique",
                flop=layout.batch * (formed if extra.flop is None else extra.flop),
                activation_byte=layout.batch * (extra.byte + 2 * b * scores), kernels=extra.kernels(layout.batch),
            )  # fmt: skip


def _mean_tokens(encoded: Encoded, layer: int) -> float:
    """Tokens of a sequence that enter an encoder layer, on average, class tokens included."""
    shapes = [*zip(encoded.visual.patches, encoded.encoder_patch, strict=True)]
    tokens = sum(each.sequences * (schedule[layer] + each.token - each.patch) for each, schedule in shapes)
    return tokens / max(1, sum(each.sequences for each, _ in shapes))
