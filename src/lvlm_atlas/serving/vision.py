"""What images of several requests cost together: encoder and adapter, on one device or dealt out to several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from lvlm_atlas.roofline import encoding
from lvlm_atlas.roofline.host import HostPace
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.operator import Machine, Work
from lvlm_atlas.roofline.state import Extra
from lvlm_atlas.serving.shape import Shape
from lvlm_atlas.serving.spent import NOTHING, Spent, spent, waited

KINDS = 2**14
"""Kinds of batches that are remembered."""


class Piece(NamedTuple):
    """Images of one request that are encoded together."""

    shape: Shape
    frames: int


class Vision:
    """Times of the encoder of an instance.

    Args:
        layout: the model on its devices, the encoder divided among so many of them.
        pace: the host's part.
        walls: what the devices reach.
        ranks: devices that each hold the whole encoder and take images of their own; 1: they encode together.
    """

    def __init__(self, layout: Layout, pace: HostPace, walls: Machine, *, ranks: int = 1) -> None:
        self.layout, self.pace, self.walls, self.ranks = layout, pace, walls, ranks
        self._encoded = lru_cache(KINDS)(self._encode)

    def on(self, walls: Machine) -> Vision:
        """The same with other walls."""
        return Vision(self.layout, self.pace, walls, ranks=self.ranks)

    def encode(self, pieces: Sequence[Piece]) -> Spent:
        """Encoder and adapter on some requests' images. Images of one kind of request are one batch."""
        if self.ranks > 1:
            return self._over_ranks(pieces)
        return self._batch(Counter(piece for piece in pieces if piece.frames))

    def _batch(self, counts: Counter[Piece]) -> Spent:
        total = NOTHING
        for piece, number in counts.items():
            total += self._encoded(piece.shape, piece.frames, number)
        return total

    def _over_ranks(self, pieces: Sequence[Piece]) -> Spent:
        """Images dealt out to the ranks in turn; the slowest rank counts, then all fetch what the others have made."""
        ranks: list[Counter[Shape]] = [Counter() for _ in range(self.ranks)]
        dealt, byte = 0, 0.0
        for each in pieces:
            for _ in range(each.frames):
                ranks[dealt % self.ranks][each.shape] += 1
                dealt += 1
            if each.frames:
                byte += each.shape.embedding_byte * each.frames / each.shape.frames
        slowest = max(
            (self._batch(Counter(Piece(kind, frames) for kind, frames in rank.items())) for rank in ranks),
            key=lambda each: each.time_s,
        )
        gather = Work("encoder.all_gather", "link", link_byte=byte * (self.ranks - 1) / self.ranks)
        return slowest + spent(self.walls, [gather] if byte else [])

    def _encode(self, kind: Shape, frames: int, number: int) -> Spent:
        encoded = kind.state.encoded
        whole = frames == kind.frames
        if not whole:
            part = encoded.visual.part(frames)
            kept = [index for index, each in enumerate(encoded.visual.patches) if round(
                each.sequences * frames / encoded.visual.frames)]  # fmt: skip
            encoded = replace(
                encoded, visual=part, encoder_patch=tuple(encoded.encoder_patch[index] for index in kept)
            )  # fmt: skip
        own = replace(self.layout, batch=number)
        share = frames / kind.frames
        extras = kind.extras["encoding"] if whole else [_part(each, share) for each in kind.extras["encoding"]]
        works = [*encoding.encoding(own, encoded), *encoding.extras(own, encoded, extras)]
        return waited(self.pace.host, spent(self.walls, works), 0.0, self.pace.encoder_s)


def _part(extra: Extra, share: float) -> Extra:
    """What a technique adds to a share of a request's images; it starts as many kernels."""
    return replace(extra, flop=None if extra.flop is None else extra.flop * share, byte=extra.byte * share)
