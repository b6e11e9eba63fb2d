"""Positions on three axes (M-RoPE): time, row and column of a picture's tokens, one count for text.

N tokens, T temporal patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import VisionTokens


def in_order(ids_N: Tensor, waiting: Mapping[int, Iterator[VisionTokens]]) -> Iterator[int | VisionTokens]:
    """What a row is made of: lengths of text and, between them, pictures.

    Args:
        ids_N: token ids, a placeholder a vision token.
        waiting: the pictures of each placeholder, in order; a row takes those that it holds.

    Raises:
        ValueError: placeholders do not stand in a row as long as their picture.
    """
    ids, place, text = ids_N.tolist(), 0, 0
    while place < len(ids):
        if ids[place] not in waiting:
            place, text = place + 1, text + 1
            continue
        if text:
            yield text
            text = 0
        picture = next(waiting[ids[place]], None)
        tokens = sum(picture.lengths) if picture else 1
        if picture is None or ids[place : place + tokens] != [ids[place]] * tokens:
            raise ValueError(f"the placeholders from token {place} on do not fit their picture, which has {tokens}")
        yield picture
        place += tokens
    if text:
        yield text


def positions(pieces: Iterable[int | VisionTokens]) -> tuple[Tensor, int]:
    """Position ids (N, 3) of a row, and the id of what follows it.

    What follows a picture counts on from behind its longer side.

    That side is the whole grid's, and a token keeps its place in it, whatever others have been dropped.

    So do the published classes since transformers 5; before, text also waited for the end of a video's time, which
    differs where a video lasts for more ids than its longer side has tokens.
    """
    start, parts = 0, [torch.empty(0, 3, dtype=torch.long)]
    for piece in pieces:
        if isinstance(piece, int):
            parts.append(torch.arange(start, start + piece)[:, None].expand(-1, 3))
            start += piece
        else:
            parts.append(start + inside(piece))
            start += max(piece.grid or (0,))
    return torch.cat(parts), start


def inside(picture: VisionTokens) -> Tensor:
    """Time, row and column (N, 3) of a picture's tokens, from 0; times are rounded down.

    Raises:
        ValueError: a token's place in the grid is unknown.
    """
    places = [block.place_N2 for block in picture.blocks if block.place_N2 is not None]
    if len(places) < len(picture.blocks):
        raise ValueError("positions need row and column of each vision token; give `place_N2` of each `Block`")
    time_T = torch.zeros(len(places), dtype=torch.long) if picture.time_T is None else picture.time_T.cpu().long()
    time_N1 = time_T.repeat_interleave(torch.tensor(picture.lengths))[:, None]
    return torch.cat([time_N1, torch.cat(places).cpu()], dim=1)
