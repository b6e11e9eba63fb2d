"""A store whose settled tokens are a state of constant size, for linear attention.

B batch, H query heads, G key-value heads, M new entries, K retained, e features, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.ops.attention import share_heads
from lvlm_atlas.reference.ops.linear import State, attend_behind, empty
from lvlm_atlas.reference.refusal import Refusal


class StateStore(Store):
    """Holds the unsettled entries, and of all settled ones the state."""

    def __init__(self, feature_map: Callable[[Tensor], Tensor]) -> None:
        self.feature_map = feature_map
        self.state: State | None = None
        """Of the key-value heads; None before anything is settled."""
        self._key = self._value = torch.empty(0)

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """See `Store`."""
        if self.length:
            key_BGMd, value_BGMd = torch.cat([self._key, key_BGMd], 2), torch.cat([self._value, value_BGMd], 2)
        self._key, self._value = key_BGMd, value_BGMd

    def read(self) -> tuple[Tensor, Tensor]:
        """The unsettled entries; what is settled cannot be read."""
        return self._key, self._value

    def attend(self, query_BHMd: Tensor, key_BGSd: Tensor, value_BGSd: Tensor, mask: Tensor | None) -> Tensor:
        """See `Store`; over the state besides."""
        query_BHMe, key_BGSe = self.feature_map(query_BHMd), self.feature_map(key_BGSd)
        state, heads = self.state or empty(key_BGSe, value_BGSd), query_BHMd.shape[1]
        key_BHSe, value_BHSd = share_heads(key_BGSe, heads), share_heads(value_BGSd, heads)
        return attend_behind(query_BHMe, key_BHSe, value_BHSd, state.shared(heads), mask)

    def retain(self, index_K: Tensor) -> None:
        """See `Store`."""
        if len(index_K) < self.length:
            self._key, self._value = self._key[:, :, index_K], self._value[:, :, index_K]

    def settle(self) -> None:
        """Add the unsettled entries to the state, and forget them."""
        if self.length:
            key_BGMe = self.feature_map(self._key)
            self.state = (self.state or empty(key_BGMe, self._value)).add(key_BGMe, self._value)
            self._key, self._value = self._key[:, :, :0], self._value[:, :, :0]

    def keep(self, index_BGK: Tensor) -> None:
        """Nothing can be taken out of a state.

        Raises:
            Refusal: always.
        """
        raise Refusal(
            f"a layer with a state holds no entries of which {index_BGK.shape[2]} could be kept; leave out what evicts"
        )

    @property
    def length(self) -> int:
        """Unsettled entries per head."""
        return self._key.shape[2] if self._key.dim() == 4 else 0

    @property
    def state_elements(self) -> int:
        """See `Store`."""
        return 0 if self.state is None else self.state.sum_BHed[0, 0].numel() + self.state.norm_BHe[0, 0].numel()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Store`."""
        settled = (self.state.sum_BHed, self.state.norm_BHe) if self.state else ()
        return (*settled, *((self._key, self._value) if self.length else ()))
