"""The vision tokens between adapter and prompt: a block for each frame, each of its own length.

V vision tokens of all blocks, N tokens of a block, K kept, L DeepStack layers, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """The vision tokens that stand together: of an image, a temporal patch, or what a technique made of several."""

    token_ND: Tensor
    place_N2: Tensor | None = None
    """Row and column of each token in the block's grid, on the host; None: unknown."""
    deepstack_NLD: Tensor | None = None
    """As in `Patches`."""

    @property
    def length(self) -> int:
        """Vision tokens."""
        return len(self.token_ND)

    def keep(self, index_K: Tensor, place_K: Tensor | None = None) -> Block:
        """Only the tokens at these places of the block, with their places in the grid.

        Args:
            index_K: places in the block, where the tokens lie.
            place_K: the same on the device of `place_N2`; None brings them there.
        """
        place_N2, deepstack_NLD = self.place_N2, self.deepstack_NLD
        return Block(
            self.token_ND[index_K],
            None if place_N2 is None else place_N2[index_K.to(place_N2.device) if place_K is None else place_K],
            None if deepstack_NLD is None else deepstack_NLD[index_K],
        )

    def emptied(self) -> Block:
        """No token of it."""
        place_N2, deepstack_NLD = self.place_N2, self.deepstack_NLD
        return Block(
            self.token_ND[:0],
            None if place_N2 is None else place_N2[:0],
            None if deepstack_NLD is None else deepstack_NLD[:0],
        )


@dataclass(frozen=True)
class VisionTokens:
    """What encoder and adapter make of a clip.

    Raises:
        ValueError: there is not one time for each block, or some blocks have DeepStack features and others none.
    """

    blocks: tuple[Block, ...]
    """One for each image or temporal patch, of any length. An empty one has no place in the prompt; where there are
    fewer than images or temporal patches, they stand at the first placeholders."""
    grid: tuple[int, int] | None = None
    """Rows and columns of a block before any token was dropped; None: there is no grid."""
    time_T: Tensor | None = None
    """Of a video, when each block was, as the dialect counts it. None: still images."""

    def __post_init__(self) -> None:
        if self.time_T is not None and len(self.time_T) != len(self.blocks):
            raise ValueError(f"give a time for each of {len(self.blocks)} blocks of a video, got {len(self.time_T)}")
        if len({block.deepstack_NLD is None for block in self.blocks}) > 1:
            raise ValueError("some blocks have DeepStack features and others none; give them to all or to none")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Vision tokens of each block."""
        return tuple(block.length for block in self.blocks)

    def keep(self, index: Seq[Tensor]) -> VisionTokens:
        """Of each block only the tokens at these places, ascending; they keep their places in the grid.

        Places may lie on the host or where the tokens are; those of all blocks are moved together.

        Raises:
            ValueError: there is not one tensor of places for each block.
        """
        if len(index) != len(self.blocks):
            raise ValueError(f"give the places to keep in each of {len(self.blocks)} blocks, got {len(index)}")
        if not self.blocks:
            return self
        token_ND, place_N2 = self.blocks[0].token_ND, self.blocks[0].place_N2
        there = _moved(index, token_ND.device)
        beside = there
        if place_N2 is not None and place_N2.device != token_ND.device:
            beside = _moved(index, place_N2.device)
        return replace(self, blocks=tuple(map(Block.keep, self.blocks, there, beside)))

    def stills(self) -> Iterator[VisionTokens]:
        """Each block on its own, its time forgotten. Empty ones are left out."""
        return (VisionTokens((block,), self.grid) for block in self.blocks if block.length)


def _moved(index: Seq[Tensor], device: torch.device) -> Seq[Tensor]:
    """The tensors of places (K,) on a device, in one copy."""
    if all(kept.device == device for kept in index):
        return index
    moved_K = torch.cat([*index]).to(device)
    return torch.split(moved_K, [len(kept) for kept in index])


def blocks_of(
    token_TND: Tensor, place_TN2: Tensor | None = None, deepstack_TNLD: Tensor | None = None
) -> tuple[Block, ...]:
    """A block for each row of vision tokens (T, N, D), with their places in its grid."""
    columns = ([None] * len(token_TND) if each is None else each.unbind() for each in (place_TN2, deepstack_TNLD))
    return tuple(map(Block, token_TND, *columns))


def joined(blocks: Iterable[Block]) -> tuple[Tensor, Tensor | None]:
    """The vision tokens (V, D) of blocks one after the other, and their DeepStack features (V, L, D) if there are."""
    blocks = [*blocks]
    added = [block.deepstack_NLD for block in blocks if block.deepstack_NLD is not None]
    token_VD = torch.cat([block.token_ND for block in blocks]) if blocks else torch.empty(0)
    return token_VD, torch.cat(added) if added else None


def grid_places(rows: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """Row and column (rows · columns, 2) of the tokens of a grid, row by row."""
    axes = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return torch.stack(axes, dim=-1).flatten(0, 1)
