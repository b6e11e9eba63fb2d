"""What a pass reads of a layer's cache, and where that stands.

B batch, G key-value heads, H query heads, S entries, R settled entries that are read, M new tokens, A axes of a
position, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.ops.attention import Rotary


@dataclass(frozen=True)
class Reading:
    """Keys and values of the settled entries that are read, then those of all that are not settled."""

    key_BGSd: Tensor
    value_BGSd: Tensor
    settled: int
    """Settled entries R among them."""
    held: Callable[[], Held]
    """Which tokens these are, if somebody asks."""
    real_BGR: Tensor | None = None
    """False where one of them is padding, G one where heads are alike; None means nowhere."""


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
    last_BG1 = count_BGR[:, :, -1:] if reading.settled else count_BGR.sum(2, keepdim=True)
    return (count_BGR - 1).clamp(min=0), last_BG1 + offset_M


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
    for batch, entries_GRA in enumerate(held.position_BGS):
        for head, position_RA in enumerate(entries_GRA):
            there_RA = position_RA if held.real_BGS is None else position_RA[held.visible_BGS[batch, head]]
            gone_I = known_I[~torch.isin(known_I, there_RA) & (known_I < position_BMA[batch].min())]
            both_SA = torch.cat([position_RA, position_BMA[batch]])
            rows.append(both_SA - torch.searchsorted(gone_I, both_SA.contiguous()))
    position_BGSA = torch.stack(rows).unflatten(0, held.position_BGS.shape[:2])
    return position_BGSA[:, :, : reading.settled], position_BGSA[:, :, reading.settled :]


def rotate_heads(rotary: Rotary, x_BHNd: Tensor, position_BGN: Tensor) -> Tensor:
    """Queries or keys with positions of each key-value head, (B, G, N) or (B, G, N, A); B and G may be one."""
    batch, groups = x_BHNd.shape[0], position_BGN.shape[1]
    if groups == 1:
        return rotary(x_BHNd, position_BGN[:, 0])
    by_head = x_BHNd.unflatten(1, (groups, -1)).flatten(0, 1)
    return rotary(by_head, position_BGN.expand(batch, *position_BGN.shape[1:]).flatten(0, 1)).reshape(x_BHNd.shape)
