"""The attention that patches receive in an encoder layer.

F frames, H heads, N patches without the prefix.
"""

from __future__ import annotations

from torch import Tensor

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
