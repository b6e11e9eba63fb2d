"""The attention that patches receive in an encoder layer.

F frames, H heads, N patches without the prefix, T tokens of the adapter.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.refusal import Refusal


def received_attention(patches: Patches, name: str) -> Tensor:
    """What each patch receives in the last layer that ran (F, N), float32, mean over heads and over all query rows.

    The class token's row counts as any other, its column is cut off. Every row of the layer's map is formed.

    Args:
        patches: what a technique is given.
        name: of the technique, for the message.

    Raises:
        Refusal: an earlier technique left no attention.
    """
    if patches.attention is None:
        raise Refusal(f"{name} reads the encoder's attention, which these patches come without")
    return patches.attention.rows().mean(dim=(1, 2))[:, patches.prefix :]


def pooled(attention_FN: Tensor, tokens: int, name: str) -> Tensor:
    """Attention of patches averaged over the grid of so many tokens (F, T).

    Args:
        attention_FN: a number for each patch.
        tokens: T.
        name: of the technique, for the message.

    Raises:
        Refusal: patches or tokens do not form squares.
    """
    if attention_FN.shape[1] == tokens:
        return attention_FN
    sides = math.isqrt(attention_FN.shape[1]), math.isqrt(tokens)
    if not tokens or (sides[0] ** 2, sides[1] ** 2) != (attention_FN.shape[1], tokens):
        raise Refusal(
            f"{name} averages attention from squares to squares, got {attention_FN.shape[1]} patches and {tokens} "
            f"tokens of a frame; use an adapter that keeps the grid"
        )
    square_FSS = attention_FN.reshape(-1, sides[0], sides[0])
    return functional.adaptive_avg_pool2d(square_FSS, sides[1]).flatten(1)
