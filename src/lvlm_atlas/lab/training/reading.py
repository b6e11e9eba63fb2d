"""A model reads a batch, in a way that gradients go through.

F frames, P patches of a frame, K vision tokens of a frame, B samples, N tokens, C vocabulary, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lvlm_atlas.lab.training.batch import Batch
from lvlm_atlas.reference.flow.states import Patches, Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.model import LVLM


@dataclass(frozen=True)
class Encoded:
    """What the encoder makes of frames."""

    patches: Patches
    """As they leave it."""
    feature_FPD: Tensor
    """As they enter the adapter."""


def encoded(model: LVLM, frames_F3HW: Tensor) -> Encoded:
    """Frames through the model's encoder."""
    patches = model.dialect.patches(frames_F3HW, Trace(), lambda _, __, patches: patches)
    return Encoded(patches, model.dialect.features(patches))


def sequence(model: LVLM, shown: Batch, frames: Encoded, index_FK: Tensor | None = None) -> Sequence:
    """Prompts and answers as they enter the language model.

    Args:
        model: the model.
        shown: the batch.
        frames: its frames, encoded.
        index_FK: the vision tokens of each frame that the language model gets; None: all.
    """
    dialect = model.dialect
    tokens = dialect.vision_tokens(
        dialect.adapter(frames.feature_FPD), frames.patches, dialect.clips(shown.frames_F3HW)[0]
    )
    if index_FK is not None:
        tokens = tokens.keep([*index_FK])
    return dialect.prompt(shown.ids_BN, None, [tokens]).embed(model.language_model.model.embed_tokens)


def states(model: LVLM, entered: Sequence) -> Tensor:
    """What leaves the last layer (B, N, D)."""
    return model.prefill(entered).outputs.hidden_BND


def logits(model: LVLM, entered: Sequence) -> Tensor:
    """What the model says at each place (B, N, C)."""
    return model.language_model.logits(states(model, entered))
