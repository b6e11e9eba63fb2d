"""A layer's attention, of which a technique reads the rows that it needs.

B batch, H query heads, G key-value heads, N tokens, R rows, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """A layer's attention, formed row by row on demand, so that a technique pays for what it reads.

    Columns are the tokens alive when the probe is read: pruning or merging after the layer is replayed
    on the rows.
    """

    query_BHNd: Tensor
    key_BGNd: Tensor
    causal: bool
    on_read: Callable[[int], None] = lambda _entries: None
    """Told how many score entries a read computes."""
    bias_BN: Tensor | None = None
    """Added to the logits of each key, as in the layer itself."""
    real_BN: Tensor | None = None
    """False where a token is padding, which only itself sees; None means nowhere."""
    window_N: Tensor | None = None
    """A token sees those of its own window alone; None means that there is one."""
    replayed: tuple[Callable[[Tensor], Tensor], ...] = ()

    def rows(self, index: slice = slice(None)) -> Tensor:
        """Softmax rows (B, H, R, N) of the queries in `index`, float32; all rows by default."""
        heads, length, d = self.query_BHNd.shape[1:]
        groups = self.key_BGNd.shape[1]
        row_R = torch.arange(length, device=self.query_BHNd.device)[index]
        # Queries of a group lie side by side, so that its keys are read once and never repeated.
        query_BGRd = self.query_BHNd[:, :, index].float().reshape(-1, groups, heads // groups * len(row_R), d)
        logit_BGRN = query_BGRd @ self.key_BGNd.float().mT * d**-0.5
        logit_BHRN = logit_BGRN.reshape(-1, heads, len(row_R), length)
        if self.bias_BN is not None:
            logit_BHRN = logit_BHRN + self.bias_BN[:, None, None, :].float()
        visible = length * len(row_R)
        if self.causal:
            later_RN = torch.arange(length, device=row_R.device)[None, :] > row_R[:, None]
            logit_BHRN = logit_BHRN.masked_fill(later_RN, float("-inf"))
            visible = int((row_R + 1).sum())
        if self.real_BN is not None:
            itself_RN = torch.arange(length, device=row_R.device)[None, :] == row_R[:, None]
            logit_BHRN = logit_BHRN.masked_fill(~(self.real_BN[:, None, None, :] | itself_RN), float("-inf"))
        if self.window_N is not None:
            elsewhere_RN = self.window_N[None, :] != self.window_N[row_R, None]
            logit_BHRN = logit_BHRN.masked_fill(elsewhere_RN, float("-inf"))
            visible = int((~elsewhere_RN).sum())
        self.on_read(visible * heads * self.query_BHNd.shape[0])
        weight_BHRN: Tensor = logit_BHRN.softmax(dim=-1)
        for replay in self.replayed:
            weight_BHRN = replay(weight_BHRN)
        return weight_BHRN

    def then(self, replay: Callable[[Tensor], Tensor]) -> Probe:
        """The probe after a change of the tokens: `replay` maps (B, H, R, N) to the new columns."""
        return replace(self, replayed=(*self.replayed, replay))
