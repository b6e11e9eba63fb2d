"""From a request to vision tokens: frames chosen and resized, encoded and adapted, techniques at the extension points.

F frames, K kept, T blocks of vision tokens, N patches, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import (
    Adapter,
    AdapterOutput,
    Encoder,
    EncoderAttention,
    EncoderLayer,
    EncoderOutput,
    Frames,
    Pixels,
)
from lvlm_atlas.reference.lvlm.dialect import Dialect
from lvlm_atlas.reference.lvlm.prompt import Clip
from lvlm_atlas.reference.lvlm.technique import Acts, Run
from lvlm_atlas.reference.ops.flops import count_flop


class Encoding(Protocol):
    """A model, as far as it encodes."""

    dialect: Dialect

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of its weights."""


def select(run: Run) -> Request:
    """The request with the frames that enter the encoder; placeholders of the others are gone."""
    request, trace = run.request, run.trace
    index_K = torch.arange(len(request.frames_F3HW))
    trace.frames_in = len(index_K)
    for technique in run.acts.at("frames") if trace.frames_in else ():
        chosen = technique.select_frames(Frames(request, index_K)).cpu()
        request, index_K = request.keep_frames(chosen), index_K[chosen]
    trace.frames, trace.frame_index = len(index_K), index_K
    return request


def resize(request: Request, acts: Acts, trace: Trace) -> Request:
    """The request with its frames at the resolution to encode."""
    trace.pixels_in = _pixels(request.runs)
    index_K = torch.arange(len(request.frames_F3HW)) if trace.frame_index is None else trace.frame_index
    for technique in acts.at("pixels"):
        images: list[Tensor] = []
        for frames_F3HW in request.runs:
            index_F = index_K[len(images) : len(images) + len(frames_F3HW)]
            images += technique.resize(Pixels(frames_F3HW, index_F))
        one_size = len({image.shape for image in images}) == 1
        request = replace(request, frames_F3HW=torch.stack(images) if one_size else tuple(images))
    trace.pixels = _pixels(request.runs)
    return request


def encode(model: Encoding, clip: Clip, acts: Acts, trace: Trace) -> VisionTokens:
    """What encoder and adapter make of a clip.

    Raises:
        ValueError: a technique leaves what the model's adapter or positions cannot take.
    """
    dialect = model.dialect
    patches = _patches(dialect, clip.frames_F3HW.to(model.device, model.dtype), acts, trace)
    for technique in acts.at("encoder-output"):
        patches = _on_grid(patches, technique.encoder_output(EncoderOutput(patches)), technique)
    token_TND = _adapted(dialect, patches, acts, trace, tuple(tiling.views for tiling in clip.tilings))
    # An adapter of another kind need not make its tokens of single patches, in their order.
    known = replace(patches, place_FN2=None, on_grid=not acts.places_lost) if acts.at("adapter") else patches
    tokens = dialect.vision_tokens(token_TND, known, clip)
    for technique in acts.at("adapter-output"):
        tokens = technique.adapter_output(AdapterOutput(tokens))
    return tokens


def _patches(dialect: Dialect, frames_F3HW: Tensor, acts: Acts, trace: Trace) -> Patches:
    """What the encoder makes of frames: the model's own, or what stands in its place.

    Raises:
        ValueError: the model's adapter joins neighbours of a grid that what stands in its place does not keep.
    """
    exchanged, owner = acts.owner("encoder-attention"), acts.owner("encoder")

    def between(layer: int, layers: int, patches: Patches) -> Patches:
        for technique in acts.at("encoder-layer"):
            patches = _on_grid(patches, technique.encoder_layer(EncoderLayer(layer, layers, patches)), technique)
        return patches

    def attending(
        layer: int,
        layers: int,
        patches: Patches,
        heads: tuple[Tensor, Tensor, Tensor],
        own: Callable[[], Tensor],
        scores: int,
    ) -> Tensor:
        at = EncoderAttention(layer, layers, patches, *heads, own)
        out_FHNd: Tensor
        out_FHNd, flop = count_flop(lambda: exchanged.attend_patches(at))  # type: ignore[union-attr]
        trace.note_encoder_attention(layer, flop, own_flop=4 * scores * heads[0].shape[-1])
        return out_FHNd

    def own(frames_F3HW: Tensor) -> Patches:
        return dialect.patches(frames_F3HW, trace, between, attending if exchanged else None)

    if owner is None:
        return own(frames_F3HW)
    before = [*trace.encoder_tokens]
    patches: Patches
    patches, flop = count_flop(lambda: owner.encode(Encoder(frames_F3HW, own)))
    tokens = patches.hidden_FND.shape[1]
    if "free-patches" not in dialect.offers and (patches.grid is None or math.prod(patches.grid) != tokens):
        raise ValueError(
            f"{type(owner).__name__} gives {tokens} patches on a grid of {patches.grid}, but this model's adapter "
            f"joins neighbours of the whole grid; a technique that changes it needs `free-patches` and must declare it"
        )
    trace.encoder_flop = (trace.encoder_flop or 0) + flop
    trace.encoder_tokens = [*before, tokens - patches.prefix]
    return patches


def _adapted(
    dialect: Dialect, patches: Patches, acts: Acts, trace: Trace, views: tuple[int, ...]
) -> Tensor | tuple[Tensor, ...]:
    """What the adapter makes of the patches: the model's own, or what stands in its place."""
    hidden_TND, owner = dialect.features(patches), acts.owner("adapter")
    if owner is None:
        own: Tensor = dialect.adapter(hidden_TND)
        return own
    token_TND: Tensor | tuple[Tensor, ...]
    token_TND, flop = count_flop(lambda: owner.adapt(Adapter(hidden_TND, patches, dialect.adapter, views)))
    trace.adapter_flop = (trace.adapter_flop or 0) + flop
    return token_TND


def _pixels(runs: list[Tensor]) -> int:
    return sum(frames_F3HW[:, 0].numel() for frames_F3HW in runs)


def _on_grid(before: Patches, after: Patches, technique: object) -> Patches:
    """The patches that a technique leaves, all of them where the adapter joins neighbours of their grid.

    Raises:
        ValueError: some are gone, and the technique did not declare that it needs `free-patches`.
    """
    if before.grid is None or (after.grid == before.grid and after.hidden_FND.shape == before.hidden_FND.shape):
        return after
    raise ValueError(
        f"{type(technique).__name__} leaves {after.hidden_FND.shape[1]} of {before.hidden_FND.shape[1]} patches, but "
        f"this model's adapter joins neighbours of the whole {before.grid[0]} × {before.grid[1]} grid; a technique "
        f"that changes their number needs `free-patches` and must declare it, or drop vision tokens at `adapter-output`"
    )
