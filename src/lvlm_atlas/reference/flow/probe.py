"""A layer's attention, of which a technique reads the rows that it needs.

B batch, H query heads, G key-value heads, N tokens, S keys (earlier entries of the cache, then the tokens), R rows,
d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lvlm_atlas.reference.ops.attention import mask_of_heads


@dataclass(frozen=True)
class Probe:
    """A layer's attention, formed row by row on demand, so that a technique pays for what it reads.

    Columns are the tokens alive when the probe is read: pruning or merging after the layer is replayed
    on the rows. Where the tokens follow a cache, its entries take their part of the softmax, and have columns
    before the tokens' only if that is asked for: places among the tokens stay places among the columns.
    """

    query_BHNd: Tensor
    key_BGNd: Tensor
    """Keys of the tokens, behind those of the cache's entries that they follow."""
    causal: bool
    on_read: Callable[[int], None] = lambda _entries: None
    """Told how many score entries a read computes."""
    bias_BN: Tensor | None = None
    """Added to the logits of each key, as in the layer itself; (B, G, S) where heads hold different ones."""
    window_N: Tensor | None = None
    """A token sees those of its own window alone; None means that there is one."""
    real_BGS: Tensor | None = None
    """False where a key is padding, which only the token itself sees, G one where heads are alike; None: nowhere."""
    replayed: tuple[Callable[[Tensor], Tensor], ...] = ()

    @property
    def cached(self) -> int:
        """Entries of the cache before the tokens."""
        return self.key_BGNd.shape[2] - self.query_BHNd.shape[2]

    def rows(self, index: slice | Tensor = slice(None), *, earlier: bool = False) -> Tensor:
        """Softmax rows (B, H, R, N) of the queries in `index`, float32; all rows by default.

        Args:
            index: which tokens' rows, a slice or their places (R,).
            earlier: whether columns of the cache's entries stand before those of the tokens: (B, H, R, cached + N).
        """
        heads, length, d = self.query_BHNd.shape[1:]
        groups, cached = self.key_BGNd.shape[1], self.cached
        row_R = torch.arange(length, device=self.query_BHNd.device)[index]
        # Queries of a group lie side by side, so that its keys are read once and never repeated.
        query_BGRd = self.query_BHNd[:, :, index].float().reshape(-1, groups, heads // groups * len(row_R), d)
        logit_BGRS = query_BGRd @ self.key_BGNd.float().mT * d**-0.5
        logit_BHRS = logit_BGRS.reshape(-1, heads, len(row_R), cached + length)
        if self.bias_BN is not None:
            bias_BGS = self.bias_BN if self.bias_BN.dim() == 3 else self.bias_BN[:, None]
            logit_BHRS = logit_BHRS + mask_of_heads(bias_BGS, heads)[:, :, None, :].float()
        visible = (cached + length) * len(row_R)
        if self.causal:
            later_RS = torch.arange(-cached, length, device=row_R.device)[None, :] > row_R[:, None]
            logit_BHRS = logit_BHRS.masked_fill(later_RS, float("-inf"))
            visible = int((cached + row_R + 1).sum())
        if self.window_N is not None:
            elsewhere_RN = self.window_N[None, :] != self.window_N[row_R, None]
            logit_BHRS = logit_BHRS.masked_fill(elsewhere_RN, float("-inf"))
            visible = int((~elsewhere_RN).sum())
        if self.real_BGS is not None:
            real_BHS = mask_of_heads(self.real_BGS, heads)
            itself_RS = torch.arange(-cached, length, device=row_R.device)[None, :] == row_R[:, None]
            logit_BHRS = logit_BHRS.masked_fill(~(real_BHS[:, :, None] | itself_RS), float("-inf"))
        entries = visible * heads * self.query_BHNd.shape[0]
        self.on_read(entries if self.real_BGS is None else int((logit_BHRS > float("-inf")).sum()))
        weight_BHRS: Tensor = logit_BHRS.softmax(dim=-1)
        weight_BHRN = weight_BHRS[..., cached:]
        for replay in self.replayed:
            weight_BHRN = replay(weight_BHRN)
        return torch.cat([weight_BHRS[..., :cached], weight_BHRN], dim=-1) if earlier and cached else weight_BHRN

    def now(self, value_BN: Tensor) -> Tensor:
        """Numbers of the layer's own tokens, for those alive when the probe is read: (B, N) to the new columns."""
        value_B11N = value_BN[:, None, None]
        for replay in self.replayed:
            value_B11N = replay(value_B11N)
        return value_B11N[:, 0, 0]

    def then(self, replay: Callable[[Tensor], Tensor]) -> Probe:
        """The probe after a change of the tokens: `replay` maps (B, H, R, N) to the new columns."""
        return replace(self, replayed=(*self.replayed, replay))
