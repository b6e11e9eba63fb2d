"""Entries of which the oldest are codes.

B batch, G key-value heads, S entries, M new entries, K retained, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.ops.quantisation import Beside, Codes, Format, levels, pack, unpack
from lvlm_atlas.reference.refusal import Refusal


class Half:
    """The keys or the values of a layer: codes of the oldest, then the recent ones as they came."""

    def __init__(self, form: Format, group_size: int, *, across_tokens: bool) -> None:
        self.format, self.group_size = form, group_size
        self.across_tokens = across_tokens
        """Whether a group is g tokens of one channel or g channels of one token."""
        self.codes: Codes | Beside | None = None
        self.coded = 0
        self.recent_BGNd = torch.empty(0)

    def append(self, x_BGMd: Tensor) -> None:
        """Add entries at the end.

        Raises:
            Refusal: groups lie across channels, and their size does not divide the head dimension.
        """
        if not self.across_tokens and x_BGMd.shape[-1] % self.group_size:
            raise Refusal(
                f"group_size must divide the head dimension, which is {x_BGMd.shape[-1]} here, got {self.group_size}"
            )
        self.recent_BGNd = torch.cat([self.recent_BGNd, x_BGMd], dim=2) if self.recent_BGNd.dim() == 4 else x_BGMd

    def read(self) -> Tensor:
        """All entries (B, G, S, d)."""
        if self.codes is None:
            return self.recent_BGNd
        old = self.format.decode(self.codes, self.group_size)
        return torch.cat([old.mT if self.across_tokens else old, self.recent_BGNd], dim=2)

    def retain(self, index_K: Tensor, count: int) -> None:
        """Of the last `count` entries keep those at these places."""
        first = self.recent_BGNd.shape[2] - count
        head, tail = self.recent_BGNd[:, :, :first], self.recent_BGNd[:, :, first:]
        self.recent_BGNd = torch.cat([head, tail[:, :, index_K]], dim=2)

    def keep(self, index_BGK: Tensor, settled: int, length: int) -> None:
        """Of the `settled` oldest entries keep those at these places, and `length` of them, the oldest, as codes.

        A code stays as it is where its group does: a token's own channels, or tokens before the first that is dropped.
        The others are read back and made codes again, in groups with their new neighbours.
        """
        exact = self._untouched(index_BGK, length)
        every_BGSd = self.read()
        kept_BGKd = take(every_BGSd[:, :, :settled], index_BGK[:, :, exact:])
        if self.codes is not None:
            first = index_BGK[:, :, :exact]
            self.codes = self.codes.first(exact, self.group_size) if self.across_tokens else self.codes.rows(first)
            self.codes = self.codes if exact else None
        self.coded = exact
        self.recent_BGNd = torch.cat([kept_BGKd, every_BGSd[:, :, settled:]], dim=2)
        self.quantise(length)

    def _untouched(self, index_BGK: Tensor, length: int) -> int:
        """How many of the first `length` kept entries can keep their codes, in every head."""
        kept = index_BGK.shape[2]
        place_K = torch.arange(kept, device=index_BGK.device)
        # Ascending places: those that hold have no gap between them.
        holds = index_BGK == place_K if self.across_tokens else index_BGK < self.coded
        exact = min(int(holds.long().cumprod(dim=2).sum(dim=2).min()), length, self.coded)
        return exact - exact % self.group_size if self.across_tokens else exact

    def quantise(self, length: int) -> None:
        """Make codes of the oldest entries until `length` of them are; groups across tokens must come out whole."""
        new = length - self.coded
        if new <= 0:
            return
        old_BGNd = self.recent_BGNd[:, :, :new]
        codes = self.format.encode(old_BGNd.mT if self.across_tokens else old_BGNd, self.group_size)
        self.codes = self.codes.then(codes, dim=-1 if self.across_tokens else 2) if self.codes else codes
        self.coded = length
        self.recent_BGNd = self.recent_BGNd[:, :, new:].clone()  # a view would hold the tensor that it was cut from

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that hold the entries."""
        return (self.recent_BGNd, *(self.codes.tensors if self.codes else ()))


class ChannelHalf(Half):
    """Codes of 2^b levels over the range that a channel has among the entries which are quantised first.

    Scale and zero point are one pair a channel. What is quantised later keeps to them and is clamped to their range. A
    code is its token's own and lies with those of its other channels, so that dropping an entry leaves the rest alone.

    Args:
        bits: b, one of 1, 2, 4 and 8.
        clip: the part of each channel's range that levels are spread over; see `ops.quantisation.levels`.
        room: tensors that take the place of scale and zero point until there are any; none by default.
    """

    def __init__(self, bits: int, clip: float = 1.0, room: tuple[Tensor, ...] = ()) -> None:
        super().__init__(Format(self._encode, self._decode), 8 // bits, across_tokens=False)
        self.bits, self.clip, self._room = bits, clip, room
        self._levels: tuple[Tensor, Tensor] | None = None

    def _encode(self, x_BGNd: Tensor, _group_size: int) -> Codes:
        zero, scale = self._levels = self._levels or levels(x_BGNd, 2, self.bits, self.clip)
        level = ((x_BGNd - zero) / scale).nan_to_num(0, torch.inf).clamp(0, 2**self.bits - 1).round()
        return Codes(pack(level.to(torch.uint8), self.bits), x_BGNd.new_empty(*x_BGNd.shape[:3], 0))

    def _decode(self, codes: Codes, _group_size: int) -> Tensor:
        assert self._levels is not None, "nothing is read before it is written"  # noqa: S101
        zero, scale = self._levels
        return unpack(codes.packed, self.bits).to(scale.dtype) * scale + zero

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Half`; one zero point and one scale a channel."""
        if self._levels is None:
            return (*super().tensors, *self._room)
        return (*super().tensors, *(self._levels if self.coded else ()))


class QuantisedStore(Store):
    """Codes of the oldest settled entries, keys and values each in a way of their own; unsettled ones stay exact.

    Args:
        key: how keys are held.
        value: how values are held.
        coded: from the number of settled entries to how many of the oldest keys and values are codes; neither may
            fall as entries come. None: all are, which no groups across tokens allow.
    """

    def __init__(self, key: Half, value: Half, coded: Callable[[int], tuple[int, int]] | None = None) -> None:
        self.key, self.value = key, value
        self.coded = coded or (lambda length: (length, length))
        self._length = self._settled = 0

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """See `Store`.

        Raises:
            Refusal: the group size does not divide the head dimension.
        """
        self.key.append(key_BGMd)
        self.value.append(value_BGMd)
        self._length += key_BGMd.shape[2]

    def read(self) -> tuple[Tensor, Tensor]:
        """See `Store`."""
        return self.key.read(), self.value.read()

    def retain(self, index_K: Tensor) -> None:
        """See `Store`; no unsettled entry is a code, so this is exact."""
        for half in (self.key, self.value):
            half.retain(index_K, self._length - self._settled)
        self._length = self._settled + len(index_K)

    def settle(self) -> None:
        """See `Store`; quantises what has become old enough."""
        keys, values = self.coded(self._length)
        self.key.quantise(keys)
        self.value.quantise(values)
        self._settled = self._length

    def keep(self, index_BGK: Tensor) -> None:
        """See `Store`; what is left is held as so many entries are."""
        keys, values = self.coded(index_BGK.shape[2])
        self.key.keep(index_BGK, self._settled, keys)
        self.value.keep(index_BGK, self._settled, values)
        self._length += index_BGK.shape[2] - self._settled
        self._settled = index_BGK.shape[2]

    @property
    def length(self) -> int:
        """See `Store`."""
        return self._length

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Store`."""
        return (*self.key.tensors, *self.value.tensors)
