"""Entries that wait in the host's memory, block by block, until they are read.

B batch, G key-value heads, M new entries, S entries, R read, K retained, d head dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.ops.places import mask_of, places_of, take
from lvlm_atlas.reference.refusal import Refusal


class Block:
    """Neighbouring entries whose keys and values lie on the host, and while they are in use on the device too."""

    def __init__(self, pair: Sequence[Tensor]) -> None:
        self.device, self.length = pair[0].device, pair[0].shape[2]
        # A view would hold the tensor that it was cut from.
        self.on_host = tuple(x.to("cpu", copy=True) for x in pair)
        self.on_device: tuple[Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of its keys and values."""
        return sum(x.nbytes for x in self.on_host)

    def fetch(self) -> int:
        """Bring it to the device; the bytes that this moved."""
        if self.on_device:
            return 0
        self.on_device = tuple(x.to(self.device) for x in self.on_host)
        return self.nbytes

    def keep(self, index_BGK: Tensor) -> Block:
        """Only the entries at these places."""
        kept = copy(self)
        kept.length = index_BGK.shape[2]
        kept.on_host = _taken(self.on_host, index_BGK)
        kept.on_device = _taken(self.on_device, index_BGK) if self.on_device else ()
        return kept


class HostStore(Store):
    """Blocks of settled entries on the host, the others on the device, all as they came.

    A read brings the blocks to the device that it needs and that are not there. They stay until a read needs others:
    `resident` blocks at most, those read longest ago go first; their copies on the host were never gone, so that
    nothing is moved back. On the CPU nothing moves, but all is counted as if it did.

    Args:
        blocks: first places and the places behind the last ones, ascending and apart, of the entries that go to the
            host once they are settled; more are named by `offload`.
        resident: blocks that may be on the device at once, besides those of the read itself.
    """

    def __init__(self, blocks: Iterable[tuple[int, int]] = (), resident: int = 0) -> None:
        self._resident, self._fetched_byte, self._settled = resident, 0, 0
        self._pieces: list[Block | tuple[Tensor, Tensor]] = []
        """In order of arrival: blocks, and between them what lies on the device."""
        self._waiting = list(blocks)
        self._used: list[Block] = []
        """Blocks on the device, those read longest ago first."""

    def offload(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Name more entries that go to the host: places behind all blocks so far. They go when they are settled."""
        self._waiting += blocks

    @property
    def offloaded(self) -> int:
        """Blocks that are on the host, or go there once they are settled."""
        return len(self._waiting) + sum(isinstance(piece, Block) for piece in self._pieces)

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """See `Store`."""
        last = self._pieces.pop() if self._pieces and not isinstance(self._pieces[-1], Block) else None
        pair = (key_BGMd, value_BGMd)
        if isinstance(last, tuple):
            pair = (torch.cat([last[0], key_BGMd], dim=2), torch.cat([last[1], value_BGMd], dim=2))
        self._pieces.append(pair)

    def read(self) -> tuple[Tensor, Tensor]:
        """See `Store`; fetches all blocks."""
        return self._joined(self._pieces)

    def read_at(self, index_BGR: Tensor, settled: int) -> tuple[Tensor, Tensor]:
        """See `Store`; fetches the blocks of these places alone, each of them whole."""
        needed, position_S, start, place = [], torch.full((self.length,), -1), 0, 0
        wanted_S = torch.zeros(self.length, dtype=torch.bool)
        wanted_S[index_BGR.flatten().cpu()] = True
        wanted_S[settled:] = True
        for piece in self._pieces:
            end = start + _length(piece)
            if wanted_S[start:end].any():
                needed.append(piece)
                position_S[start:end] = torch.arange(place, place + end - start)
                place += end - start
            start = end
        key, value = self._joined(needed)
        late = torch.arange(settled, self.length).expand(*index_BGR.shape[:2], -1)
        index = position_S[torch.cat([index_BGR.cpu(), late], dim=2)].to(key.device)
        wide = index[..., None].expand(*index.shape, key.shape[-1])
        return key.gather(2, wide), value.gather(2, wide)

    def retain(self, index_K: Tensor) -> None:
        """See `Store`; no unsettled entry is in a block."""
        unsettled = self.length - self._settled
        if not unsettled:
            return
        pair = self._pieces.pop()
        assert isinstance(pair, tuple)  # noqa: S101
        kept = [torch.cat([x[:, :, : x.shape[2] - unsettled], _last(x, unsettled)[:, :, index_K]], dim=2) for x in pair]
        if kept[0].shape[2]:
            self._pieces.append((kept[0], kept[1]))

    def settle(self) -> None:
        """See `Store`; moves entries to the host that belong there."""
        self._settled = self.length
        while self._waiting and self._waiting[0][1] <= self._settled:
            self._move(*self._waiting.pop(0))

    def keep(self, index_BGK: Tensor) -> None:
        """See `Store`; what is left of a block stays where it is.

        Raises:
            Refusal: heads would keep different numbers of entries of a block.
        """
        keep_BGS = functional.pad(mask_of(index_BGK, self._settled), (0, self.length - self._settled), value=True).cpu()
        before_S = [0, *keep_BGS[0, 0].long().cumsum(0).tolist()]
        pieces, start, length = [], 0, self.length
        for piece in self._pieces:
            index = _places(keep_BGS[:, :, start : start + _length(piece)])
            start += _length(piece)
            if index.shape[2]:
                pieces.append(piece.keep(index) if isinstance(piece, Block) else _taken(piece, index))
        moved = [[before_S[min(x, length)] + max(0, x - length) for x in block] for block in self._waiting]
        self._waiting = [(first, end) for first, end in moved if end > first]
        self._pieces = pieces
        self._used = [piece for piece in pieces if isinstance(piece, Block) and piece.on_device]
        self._settled = index_BGK.shape[2]

    @property
    def length(self) -> int:
        """See `Store`."""
        return sum(map(_length, self._pieces))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Store`; an entry counts once, where it can be read fastest."""
        return tuple(x for piece in self._pieces for x in _tensors(piece))

    @property
    def host_tensors(self) -> tuple[Tensor, ...]:
        """See `Store`; blocks that are on the device too are not waiting."""
        waiting = (piece for piece in self._pieces if isinstance(piece, Block) and not piece.on_device)
        return tuple(x for block in waiting for x in block.on_host)

    @property
    def fetched_byte(self) -> int:
        """See `Store`."""
        return self._fetched_byte

    def _joined(self, pieces: Sequence[Block | tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Keys and values of these pieces, whose blocks are fetched first and are then the ones in use."""
        blocks = [piece for piece in pieces if isinstance(piece, Block)]
        self._fetched_byte += sum(block.fetch() for block in blocks)
        self._used = [block for block in self._used if block not in blocks] + blocks
        while len(self._used) > max(self._resident, len(blocks)):
            self._used.pop(0).on_device = ()
        pairs = [piece.on_device if isinstance(piece, Block) else piece for piece in pieces]
        key, value = (torch.cat(column, dim=2) for column in zip(*pairs, strict=True))
        return key, value

    def _move(self, first: int, end: int) -> None:
        """Make a block of the entries from place `first` to before `end`, which lie on the device in one piece."""
        start = self.length - _length(self._pieces[-1])
        pair = self._pieces.pop()
        assert isinstance(pair, tuple)  # noqa: S101
        assert start <= first < end, "blocks ascend and lie apart"  # noqa: S101
        parts = [tuple(x[:, :, a - start : b - start] for x in pair) for a, b in ((start, first), (first, end))]
        rest = tuple(x[:, :, end - start :].clone() for x in pair)
        if first > start:
            self._pieces.append((parts[0][0].clone(), parts[0][1].clone()))
        self._pieces.append(Block(parts[1]))
        if rest[0].shape[2]:
            self._pieces.append((rest[0], rest[1]))


def _length(piece: Block | tuple[Tensor, Tensor]) -> int:
    return piece.length if isinstance(piece, Block) else piece[0].shape[2]


def _tensors(piece: Block | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return (piece.on_device or piece.on_host) if isinstance(piece, Block) else piece


def _places(keep_BGS: Tensor) -> Tensor:
    count_BG = keep_BGS.sum(dim=2)
    if bool((count_BG != count_BG.flatten()[0]).any()):
        raise Refusal(
            f"heads must keep equally many entries of each block of the host, got {count_BG.tolist()}; let them keep "
            f"the same ones"
        )
    return places_of(keep_BGS)


def _taken(pair: Sequence[Tensor], index_BGK: Tensor) -> tuple[Tensor, Tensor]:
    key, value = (take(x, index_BGK.to(x.device)) for x in pair)
    return key, value


def _last(x: Tensor, count: int) -> Tensor:
    return x[:, :, x.shape[2] - count :]
