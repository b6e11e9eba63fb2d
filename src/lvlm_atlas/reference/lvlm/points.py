"""The extension points: where techniques act, what is called there, and what it is given.

`answer → frames → pixels → encoder (encoder-attention → encoder-layer) → encoder-output → adapter → adapter-output →
llm-input → prefill-chunks → projections → llm-layer → attention → cache-tokens → cache-layers → cache-bits →
cache-step → cache-read → decode-loop → stop`

A technique is an immutable setting. It declares the positions at which it acts; for each run `begin` returns the
object whose methods are called there, and which may hold state of that run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.flow.request import Result
from lvlm_atlas.reference.flow.states import Entries, Patches, Sequence
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import (
    Adapter,
    AdapterOutput,
    Answer,
    Attention,
    CacheBits,
    CacheLayers,
    CacheRead,
    CacheStep,
    CacheTokens,
    DecodeLoop,
    Encoder,
    EncoderAttention,
    EncoderLayer,
    EncoderOutput,
    Frames,
    LlmInput,
    LlmLayer,
    Pixels,
    PrefillChunks,
    Projections,
    Stop,
)
from lvlm_atlas.reference.lvlm.decoder import Projecting
from lvlm_atlas.reference.ops.blocks import Blocks, Pairs, Replacement
from lvlm_atlas.reference.ops.window import Window


@dataclass(frozen=True)
class Point:
    """An extension point."""

    method: str
    """What is called there."""
    context: type
    """What it is given, its only argument."""
    returns: Any
    """The type of what it returns."""
    exclusive: bool = False
    """Whether one technique at most can act there."""
    withholds: tuple[str, ...] = ()
    """Needs that nobody else can meet once a technique acts there."""


POINTS: Mapping[str, Point] = {
    "answer": Point("answer", Answer, Result, exclusive=True),
    "frames": Point("select_frames", Frames, Tensor),
    "pixels": Point("resize", Pixels, Tensor | tuple[Tensor, ...]),
    "encoder": Point(
        "encode",
        Encoder,
        Patches,
        exclusive=True,
        withholds=(
            "encoder-attention",
            "encoder-keys",
            "encoder-states",
            "cls-token",
            "attention-bias",
            "full-encoder-attention",
            "unread-encoder-layer",
        ),
    ),
    "encoder-attention": Point(
        "attend_patches", EncoderAttention, Tensor, exclusive=True, withholds=("encoder-attention", "attention-bias")
    ),
    "encoder-layer": Point("encoder_layer", EncoderLayer, Patches),
    "encoder-output": Point("encoder_output", EncoderOutput, Patches),
    "adapter": Point("adapt", Adapter, Tensor | tuple[Tensor, ...], exclusive=True),
    "adapter-output": Point("adapter_output", AdapterOutput, VisionTokens),
    "llm-input": Point("llm_input", LlmInput, Sequence),
    "prefill-chunks": Point(
        "split_prompt", PrefillChunks, Tensor, exclusive=True, withholds=("attention-map", "attention-row")
    ),
    "projections": Point(
        "exchange_projections",
        Projections,
        Projecting | None,
        exclusive=True,
        withholds=("unrotated-keys", "own-projections"),
    ),
    "llm-layer": Point("llm_layer", LlmLayer, Sequence),
    "attention": Point(
        "choose_blocks",
        Attention,
        Blocks | Pairs | Window | Replacement | None,
        exclusive=True,
        withholds=("attention-map",),
    ),
    "cache-tokens": Point("compress_cache", CacheTokens, Entries),
    "cache-layers": Point("compress_caches", CacheLayers, tuple[Entries, ...]),
    "cache-bits": Point("new_store", CacheBits, Store, exclusive=True),
    "cache-step": Point("evict", CacheStep, Tensor | None),
    "cache-read": Point("choose_entries", CacheRead, Tensor | None, exclusive=True),
    "decode-loop": Point("begin_decoding", DecodeLoop, Speculation, exclusive=True),
    "stop": Point("stop", Stop, bool),
}
"""Extension points by the taxonomy's position id, in pipeline order. Tools read this table from the source."""
