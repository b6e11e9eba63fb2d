"""Keys held as they are before rotary, and rotated by where they stand in the cache when they are read.

B batch, G key-value heads, H query heads, R settled entries that are read, M new tokens, A axes of a position, I ids, d
head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.reading import Reading
from lvlm_atlas.reference.ops.attention import Rotary


class InCache:
    """Position ids in the cache: contiguous, whatever is evicted or not read.

    On one axis they count what is read, as in StreamingLLM; on several they are closed up (`closed_up`).
    """

    def __init__(self, rotary: Rotary) -> None:
        self.rotary = rotary
        self._known_I = torch.empty(0, dtype=torch.long)
        """Where positions have several axes: the ids that tokens of the prompts had, ascending."""
        self._decoded_from: list[int] = []
        """The first id after those in each layer; from there on, decoded tokens count on."""

    def positions(self, layer: int, reading: Reading, offset_M: Tensor, position_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Position ids of the settled entries that are read (B, G, R), and of new tokens (B, G, M); (…, A) on A axes.

        Args:
            layer: where it is read.
            reading: what is read.
            offset_M: how many tokens stand between the settled entries and each of the new tokens.
            position_BM: position ids of the new tokens, were nothing evicted; (B, M, A) where axes differ.
        """
        if not len(self._known_I):
            return by_place(reading, offset_M)
        known_I = torch.unique(torch.cat([self._known_I, self._decoded(layer, position_BM)]))
        axes = reading.held().position_BGS.shape[3]
        position_BMA = position_BM if position_BM.dim() == 3 else position_BM[..., None].expand(-1, -1, axes)
        return closed_up(reading, position_BMA, known_I)

    def know(self, position_BN: Tensor, next_position_LB: Tensor) -> None:
        """Remember the ids (B, N, A) of a prompt, and that of the token after it; on one axis none need be known."""
        if position_BN.dim() == 3:
            decoded = [self._decoded(layer, position_BN) for layer in range(len(self._decoded_from))]
            ids = (self._known_I.to(position_BN.device), position_BN.flatten(), *decoded)
            self._known_I = torch.unique(torch.cat(ids))
            self._decoded_from = next_position_LB.amax(dim=1).tolist()

    def rotate(self, x_BHNd: Tensor, position_BGN: Tensor) -> Tensor:
        """Queries or keys with positions of each key-value head; B and G may be one."""
        batch, groups = x_BHNd.shape[0], position_BGN.shape[1]
        if groups == 1:
            return self.rotary(x_BHNd, position_BGN[:, 0])
        by_head = torch.unflatten(x_BHNd, 1, (groups, -1)).flatten(0, 1)
        position = position_BGN.expand(batch, *position_BGN.shape[1:]).flatten(0, 1)
        return self.rotary(by_head, position).reshape(x_BHNd.shape)

    def _decoded(self, layer: int, position_BM: Tensor) -> Tensor:
        """Ids of the tokens decoded before these."""
        first = self._decoded_from[layer]
        end = int(position_BM.min()) if position_BM.numel() else first
        return torch.arange(first, max(end, first), device=position_BM.device)


def by_place(reading: Reading, offset_M: Tensor) -> tuple[Tensor, Tensor]:
    """Positions on one axis that count what is read: (B, G, R) of the settled entries, (B, G, M) of new tokens.

    Padding does not count. B and G are one where all are alike.

    Args:
        reading: what is read.
        offset_M: how many tokens stand between the settled entries and each of the new tokens.
    """
    if reading.real_BGR is None:
        place_R = torch.arange(reading.settled, device=offset_M.device)
        return place_R[None, None], (reading.settled + offset_M)[None, None]
    count_BGR = reading.real_BGR.long().cumsum(dim=2)
    # Decoded entries are no padding, and may be missing in the mask.
    later_R = torch.arange(1, reading.settled - count_BGR.shape[2] + 1, device=offset_M.device)
    count_BGR = torch.cat([count_BGR, count_BGR[:, :, -1:] + later_R], dim=2)
    return (count_BGR - 1).clamp(min=0), count_BGR[:, :, -1:] + offset_M


def closed_up(reading: Reading, position_BMA: Tensor, known_I: Tensor) -> tuple[Tensor, Tensor]:
    """Positions on several axes, (B, G, R, A) of the settled entries and (B, G, M, A) of new tokens.

    An id that an entry which is read still has on any axis stays, and what lies above ids that are gone moves down. So
    pictures that are gone as a whole leave no gap, and those that are there keep their shape, as in StreamingVLM.

    Args:
        reading: what is read.
        position_BMA: position ids of the new tokens, which count on from all that ever was.
        known_I: ids that some token has or had, ascending; what nobody ever had is no gap.
    """
    held = reading.held()
    rows = []
    for batch, position_GRA in enumerate(held.position_BGS):
        for head, position_RA in enumerate(position_GRA):
            there_RA = position_RA if held.real_BGS is None else position_RA[held.visible_BGS[batch, head]]
            gone_I = known_I[~torch.isin(known_I, there_RA) & (known_I < position_BMA[batch].min())]
            both_SA = torch.cat([position_RA, position_BMA[batch]])
            rows.append(both_SA - torch.searchsorted(gone_I, both_SA.contiguous()))
    position_BGSA = torch.unflatten(torch.stack(rows), 0, held.position_BGS.shape[:2])
    return position_BGSA[:, :, : reading.settled], position_BGSA[:, :, reading.settled :]
