"""The class token of the encoder, whose attention to the patches several techniques rank by.

F frames, H heads, N patches without the class token.
"""

from __future__ import annotations

from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.refusal import Refusal


def expect_class_token(patches: Patches, name: str) -> None:
    """Check that one class token stands before the patches.

    Args:
        patches: what a technique is given.
        name: of the technique, for the message.

    Raises:
        Refusal: there is none, or more than one.
    """
    if patches.prefix != 1:
        raise Refusal(f"{name} reads the attention of one class token, the encoder has {patches.prefix}")


def class_attention(patches: Patches, name: str) -> Tensor:
    """What the class token pays to each patch in the last layer that ran (F, H, N), float32, one row a frame.

    Its own column is cut off, so that the rest sums to less than 1.

    Args:
        patches: what a technique is given.
        name: of the technique, for messages.

    Raises:
        Refusal: there is not one class token, or an earlier technique left no attention.
    """
    expect_class_token(patches, name)
    if patches.attention is None:
        raise Refusal(f"{name} reads the encoder's attention, which these patches come without")
    return patches.attention.rows(slice(0, 1))[:, :, 0, 1:]
