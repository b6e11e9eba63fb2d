"""A model reads a batch, in a way that gradients go through.

F frames, T of these or temporal patches, P patches of one, K vision tokens of one, B samples, N tokens, C vocabulary,
D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from lvlm_atlas.lab.training.batch import Batch
from lvlm_atlas.reference.flow.states import Patches, Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.native import NativeVL
from lvlm_atlas.reference.lvlm.prompt import Clip

FRAMES_A_SECOND = 2
"""Of videos, as requests take them."""


@dataclass(frozen=True)
class Encoded:
    """What the encoder makes of frames."""

    patches: Patches
    """As they leave it."""
    feature_TPD: Tensor
    """As they enter the adapter."""


def encoded(model: LVLM, frames_F3HW: Tensor) -> Encoded:
    """Frames of a batch through the model's encoder."""
    patches = model.dialect.patches(frames_F3HW, Trace(), lambda _, __, patches: patches)
    return Encoded(patches, model.dialect.features(patches))


def sequence(model: LVLM, shown: Batch, frames: Encoded, index_TK: Tensor | None = None) -> Sequence:
    """Prompts and answers as they enter the language model.

    Args:
        model: the model.
        shown: the batch.
        frames: its frames, encoded.
        index_TK: the vision tokens of each frame, or temporal patch, that the language model gets; None: all.
    """
    tokens = [*_tokens(model, shown, frames)]
    if index_TK is not None:
        rest = iter(index_TK)
        tokens = [each.keep([next(rest) for _ in each.blocks]) for each in tokens]
    return model.dialect.prompt(shown.ids_BN, None, tokens).embed(model.language_model.model.embed_tokens)


def _tokens(model: LVLM, shown: Batch, frames: Encoded) -> Iterator[VisionTokens]:
    """The vision tokens of stills, all together, or of each video."""
    dialect, token_TND = model.dialect, model.dialect.adapter(frames.feature_TPD)
    if not shown.clip:
        yield dialect.vision_tokens(token_TND, frames.patches, Clip(shown.frames_F3HW))
        return
    time_T = cast("NativeVL", dialect).times(torch.arange(shown.clip) / FRAMES_A_SECOND)
    for pixels, tokens in zip(shown.frames_F3HW.split(shown.clip), token_TND.split(len(time_T)), strict=True):
        yield dialect.vision_tokens(tokens, frames.patches, Clip(pixels, time_T))


def states(model: LVLM, entered: Sequence) -> Tensor:
    """What leaves the last layer (B, N, D)."""
    return model.prefill(entered).outputs.hidden_BND


def logits(model: LVLM, entered: Sequence) -> Tensor:
    """What the model says at each place (B, N, C)."""
    return model.language_model.logits(states(model, entered))
