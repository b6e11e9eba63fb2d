"""The assembled prompt: token ids with a place for each vision token, and how it becomes the decoder's input.

B batch, N tokens, V vision tokens of all rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.states import Sequence


@dataclass(frozen=True)
class Prompt:
    """Token ids, a placeholder a vision token, and what stands there."""

    ids_BN: Tensor
    vision_BN: Tensor
    """True where a vision token stands."""
    vision_VD: Tensor
    """The vision tokens of all rows, in order."""
    position_BN: Tensor
    """Position ids; (B, N, A) where they have A axes."""
    real_BN: Tensor | None = None
    """False where a row is padded; None means nowhere."""

    def embed(self, embed_tokens: nn.Embedding) -> Sequence:
        """What the decoder reads.

        Raises:
            ValueError: there are not as many places as vision tokens.
        """
        device = embed_tokens.weight.device
        places, tokens = int(self.vision_BN.sum()), len(self.vision_VD)
        if places != tokens:
            raise ValueError(f"the prompt has places for {places} vision tokens, the encoder gave {tokens}")
        vision_BN = self.vision_BN.to(device)
        hidden_BND = embed_tokens(self.ids_BN.to(device).masked_fill(vision_BN, 0))
        if tokens:
            hidden_BND = hidden_BND.index_put((vision_BN,), self.vision_VD.to(hidden_BND.dtype))
        place_BN = torch.arange(self.ids_BN.shape[1], device=device).expand(self.ids_BN.shape)
        real_BN = None if self.real_BN is None else self.real_BN.to(device)
        return Sequence(hidden_BND, self.position_BN.to(device), vision_BN, place_BN, real_BN=real_BN)


def real_tokens(attention_mask: Tensor | None) -> Tensor | None:
    """(B, N), True where a token is no padding; None if none is, so that no mask need be formed."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return attention_mask.bool()


def places_in_text(ids_BN: Tensor, real_BN: Tensor | None) -> Tensor:
    """Position ids (B, N) on one axis: 0, 1, … from the first token that is no padding."""
    if real_BN is None:
        return torch.arange(ids_BN.shape[1], device=ids_BN.device).expand(ids_BN.shape)
    return (real_BN.long().cumsum(-1) - 1).clamp(min=0)
