"""A store whose settled tokens are the state of a gated delta net.

B batch, M new entries, U unsettled entries, K retained, H value heads, v channels of a value, W channels of an entry.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.modules.gated_delta import DeltaState, GatedDeltaNet
from lvlm_atlas.reference.refusal import Refusal


class DeltaStore(Store):
    """Holds the unsettled entries, and of all settled ones the state.

    Args:
        net: of the layer.
        chunk_size: tokens of a prompt that are taken at once.
        groups: the model's key-value heads, of which states are counted.
    """

    def __init__(self, net: GatedDeltaNet, chunk_size: int, groups: int) -> None:
        self.net, self.chunk_size, self.groups = net, chunk_size, groups
        self.state: DeltaState | None = None
        """None before anything is settled."""
        self._entry = torch.empty(0)

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:  # noqa: ARG002 - values are empty
        """See `Store`; keys are entries."""
        self._entry = torch.cat([self._entry, key_BGMd], dim=2) if self.length else key_BGMd

    def read(self) -> tuple[Tensor, Tensor]:
        """The unsettled entries; what is settled cannot be read."""
        return self._entry, self._entry[..., :0]

    def attend(self, query_BHMd: Tensor, key_BGSd: Tensor, value_BGSd: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """See `Store`: each new token reads the state behind its own line of unsettled tokens (B, H, M, v)."""
        state, new, unsettled = self.state or self.net.empty(key_BGSd), query_BHMd.shape[2], key_BGSd.shape[2]
        if mask is None or bool((mask == torch.ones_like(mask).tril(unsettled - new)).all()):  # one line
            return self.net.mixed(key_BGSd, state, self.chunk_size)[0][:, :, unsettled - new :]
        lines = [self.net.mixed(key_BGSd[:, :, seen_U], state, self.chunk_size)[0] for seen_U in mask]
        return torch.cat([line[:, :, -1:] for line in lines], dim=2)

    def retain(self, index_K: Tensor) -> None:
        """See `Store`."""
        if len(index_K) < self.length:
            self._entry = self._entry[:, :, index_K]

    def settle(self) -> None:
        """Take the unsettled entries into the state, and forget them."""
        if self.length:
            _, self.state = self.net.mixed(self._entry, self.state or self.net.empty(self._entry), self.chunk_size)
            self._entry = self._entry[:, :, :0]

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
        """Unsettled entries."""
        return self._entry.shape[2] if self._entry.dim() == 4 else 0

    @property
    def state_elements(self) -> int:
        """See `Store`."""
        return 0 if self.state is None else self.state.elements // self.groups

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Store`."""
        settled = (self.state.sum_BHkv, self.state.before_BMc) if self.state else ()
        return (*settled, *((self._entry,) if self.length else ()))
