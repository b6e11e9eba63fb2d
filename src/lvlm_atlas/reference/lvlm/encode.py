"""From a request to vision tokens: frames chosen and resized, encoded and adapted, techniques at the extension points.

F frames, K kept, T blocks of vision tokens, N patches, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.dialect import Dialect
from lvlm_atlas.reference.lvlm.points import (
    Acts,
    Adapter,
    AdapterOutput,
    EncoderLayer,
    EncoderOutput,
    Frames,
    Pixels,
    Run,
)
from lvlm_atlas.reference.lvlm.prompt import Clip


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
        chosen = technique.select_frames(Frames(request)).cpu()
        request, index_K = request.keep_frames(chosen), index_K[chosen]
    trace.frames, trace.frame_index = len(index_K), index_K
    return request


def resize(request: Request, acts: Acts, trace: Trace) -> Request:
    """The request with its frames at the resolution to encode."""
    runs = request.runs
    trace.pixels_in = trace.pixels = _pixels(runs)
    if not (techniques := acts.at("pixels")):
        return request
    for technique in techniques:
        runs = [technique.resize(Pixels(frames_F3HW)) for frames_F3HW in runs]
    trace.pixels = _pixels(runs)
    frames = runs[0] if len(runs) == 1 else tuple(frame for frames_F3HW in runs for frame in frames_F3HW)
    return replace(request, frames_F3HW=frames)


def encode(model: Encoding, clip: Clip, acts: Acts, trace: Trace) -> VisionTokens:
    """What encoder and adapter make of a clip.

    Raises:
        ValueError: a technique leaves what the model's adapter or positions cannot take.
    """

    def between(layer: int, layers: int, patches: Patches) -> Patches:
        for technique in acts.at("encoder-layer"):
            patches = _on_grid(patches, technique.encoder_layer(EncoderLayer(layer, layers, patches)), technique)
        return patches

    dialect = model.dialect
    patches = dialect.patches(clip.frames_F3HW.to(model.device, model.dtype), trace, between)
    for technique in acts.at("encoder-output"):
        patches = _on_grid(patches, technique.encoder_output(EncoderOutput(patches)), technique)
    hidden_TND, adapter, owner = dialect.features(patches), dialect.adapter, acts.owner("adapter")
    token_TND: Tensor = owner.adapt(Adapter(hidden_TND, patches, adapter)) if owner else adapter(hidden_TND)
    # An adapter of another kind need not make its tokens of single patches, in their order.
    tokens = dialect.vision_tokens(token_TND, replace(patches, place_FN2=None) if owner else patches, clip)
    for technique in acts.at("adapter-output"):
        tokens = technique.adapter_output(AdapterOutput(tokens))
    return tokens


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
