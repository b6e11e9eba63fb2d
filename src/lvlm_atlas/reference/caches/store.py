"""Stores: the keys and values of one layer, entries added as unsettled and settled once they are verified.

B batch, H query heads, G key-value heads, M new entries, S entries, K retained, R settled entries that are read, d head
dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.ops.attention import attend
from lvlm_atlas.reference.ops.places import take


class Store(Protocol):
    """Holds the keys and values of one layer. A technique at `cache-bits` brings its own."""

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """Add entries at the end; they are unsettled: they may still be taken back.

        The store takes the tensors over: their owner changes them no more, the store may.
        """

    def announce(self, vision_BGM: Tensor) -> None:  # noqa: ARG002
        """What is appended next is of a later prompt: True where an entry is visual. Few stores want to know."""
        return None  # noqa: RET501 - mypy takes a method without a body for one that must be overridden

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, S, d) to attend to, in order of arrival; valid until the store changes.

        All of them, unless the store retrieves some: then the unsettled ones stand last, and no token of a batch may
        be padding.
        """

    def read_at(self, index_BGR: Tensor, settled: int) -> tuple[Tensor, Tensor]:
        """Of the first `settled` entries those at these places, head by head, then all that are unsettled."""
        return read_at(self.read(), index_BGR, settled)

    def logit_bias(
        self,
        query_BHMd: Tensor,  # noqa: ARG002
        key_BGRd: Tensor,  # noqa: ARG002
        held: Callable[[], Held],  # noqa: ARG002
    ) -> Tensor | None:
        """What a decoding step adds to the logits (B, H, M, R) of its tokens over settled entries; None: nothing.

        Args:
            query_BHMd: queries of the new tokens, as they attend.
            key_BGRd: keys of the settled entries that are read.
            held: which tokens these are.
        """
        return None

    def attend(self, query_BHMd: Tensor, key_BGSd: Tensor, value_BGSd: Tensor, mask: Tensor | None) -> Tensor:
        """What new tokens of decoding take from what was read: (B, H, M, d). Softmax attention, unless a store differs.

        Args:
            query_BHMd: their queries, rotated.
            key_BGSd: keys that were read, rotated, unsettled ones last.
            value_BGSd: values that were read.
            mask: True where a new token may look, or what to add to the logits, as in `attend`; None: everywhere.
        """
        return attend(query_BHMd, key_BGSd, value_BGSd, mask)

    def retain(self, index_K: Tensor) -> None:
        """Of the unsettled entries keep those at these places (ascending), drop the others."""

    def settle(self) -> None:
        """Declare all entries final; a store may now change how it holds them."""

    def keep(self, index_BGK: Tensor) -> None:
        """Of the settled entries keep only those at these places, ascending, head by head.

        Unsettled ones stay behind them and can still be taken back.
        """

    @property
    def length(self) -> int:
        """Entries per head."""

    @property
    def state_elements(self) -> int:
        """Numbers of the constant state that a head holds in place of its settled entries; 0: it holds these."""
        return 0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors that hold entries, or views of the part that does; their bytes are those of the cache."""

    @property
    def host_tensors(self) -> tuple[Tensor, ...]:
        """Those of them that wait in the host's memory. Read on the CPU alone; on a GPU their device says it."""
        return ()

    @property
    def fetched_byte(self) -> int:
        """Bytes that all reads so far have moved from the host's memory."""
        return 0


def read_at(held: tuple[Tensor, Tensor], index_BGR: Tensor, settled: int) -> tuple[Tensor, Tensor]:
    """Of keys and values (B, G, S, d) the settled ones at these places, then all that are unsettled."""
    key, value = (torch.cat([take(x[:, :, :settled], index_BGR), x[:, :, settled:]], dim=2) for x in held)
    return key, value


class PlainStore(Store):
    """Keeps keys and values as they come, with room to grow: a step copies its own entries, not the cache."""

    HEADROOM = 8
    """Room is made for one part in so many of the entries."""

    def __init__(self) -> None:
        self._key = self._value = torch.empty(0)
        self._length = self._settled = 0

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """See `Store`."""
        end = self._length + key_BGMd.shape[2]
        if self._length == 0:
            self._key, self._value = key_BGMd, value_BGMd
        else:
            if end > self._key.shape[2]:
                room = end + end // self.HEADROOM + 16
                self._key, self._value = (self._grown(x, room) for x in (self._key, self._value))
            self._key[:, :, self._length : end] = key_BGMd
            self._value[:, :, self._length : end] = value_BGMd
        self._length = end

    def read(self) -> tuple[Tensor, Tensor]:
        """See `Store`."""
        return self._key[:, :, : self._length], self._value[:, :, : self._length]

    def retain(self, index_K: Tensor) -> None:
        """See `Store`."""
        end = self._settled + len(index_K)
        if end < self._length:
            for x in (self._key, self._value):
                x[:, :, self._settled : end] = x[:, :, self._settled + index_K]
        self._length = end

    def settle(self) -> None:
        """See `Store`."""
        self._settled = self._length

    def keep(self, index_BGK: Tensor) -> None:
        """See `Store`. What is dropped takes no room any more; the tensors that were handed over do not change."""
        kept, unsettled = index_BGK.shape[2], slice(self._settled, self._length)
        length = kept + self._length - self._settled
        held = []
        for x in (self._key, self._value):
            grown = x.new_empty(*x.shape[:2], length + length // self.HEADROOM + 16, x.shape[3])
            grown[:, :, :kept] = take(x[:, :, : self._settled], index_BGK)
            grown[:, :, kept:length] = x[:, :, unsettled]
            held.append(grown)
        self._key, self._value = held
        self._settled, self._length = kept, length

    @property
    def length(self) -> int:
        """See `Store`."""
        return self._length

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Store`; room to grow does not count."""
        return (self._key[:, :, : self._length], self._value[:, :, : self._length]) if self._length else ()

    def _grown(self, x_BGSd: Tensor, room: int) -> Tensor:
        grown = x_BGSd.new_empty(*x_BGSd.shape[:2], room, x_BGSd.shape[3])
        grown[:, :, : self._length] = x_BGSd[:, :, : self._length]
        return grown
