"""What a layer's store holds: which token each settled entry is."""

from __future__ import annotations

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Held


class Ledger:
    """Keeps account of one layer's settled entries. Decoded tokens are entered when somebody asks, not at each step.

    They are text, one after the other, so that a count tells which they are.
    """

    def __init__(self, held: Held, next_index: int) -> None:
        self.held = held
        self.next_index = next_index
        """Place in the text of the first token that is not entered."""

    @property
    def real_BGS(self) -> Tensor | None:  # noqa: N802 - names carry shapes
        """False where an entry is padding, (B, 1, S) where heads are alike; None: nowhere. Later entries are none."""
        return self.held.real_BGS

    def catch_up(self, next_index: int, next_position_B: Tensor) -> None:
        """Enter the tokens decoded since.

        Args:
            next_index: place in the text of the next token.
            next_position_B: its position id in this layer.
        """
        new = next_index - self.next_index
        back_K = torch.arange(-new, 0, device=next_position_B.device)
        shape = (*self.held.index_BGS.shape[:2], new)
        position_BGK = (next_position_B[:, None] + back_K)[:, None].expand(shape)
        if self.held.position_BGS.dim() == 4:
            position_BGK = position_BGK[..., None].expand(*shape, self.held.position_BGS.shape[3])
        index_BGK = (next_index + back_K).expand(shape)
        self.add(Held(torch.zeros_like(index_BGK, dtype=torch.bool), index_BGK, position_BGK), next_index)

    def add(self, held: Held, next_index: int) -> None:
        """Enter entries behind those of before."""
        self.held, self.next_index = self.held.then(held), next_index

    def keep_where(self, keep_BGS: Tensor) -> None:
        """Only the entries where it is True are left."""
        self.held = self.held.keep_where(keep_BGS)
