"""A store of latents: one key a token for all heads, whose first channels are the value, too.

B batch, M new entries, S entries, r channels of the value, d of the key.
"""

from __future__ import annotations

from torch import Tensor

from lvlm_atlas.reference.caches.store import PlainStore


class LatentStore(PlainStore):
    """Keeps the keys alone.

    Args:
        rank: r.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """See `Store`; values are not kept."""
        super().append(key_BGMd, value_BGMd[..., :0])

    def read(self) -> tuple[Tensor, Tensor]:
        """See `Store`."""
        key_B1Sd, _ = super().read()
        return key_B1Sd, key_B1Sd[..., : self.rank]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Store`."""
        return super().tensors[:1]
