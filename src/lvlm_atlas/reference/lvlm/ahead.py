"""The attention of layers that are about to run, for techniques that decide by it.

Nothing is projected unless somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches, Sequence
from lvlm_atlas.reference.lvlm.decoder import Exchanged, Layer
from lvlm_atlas.reference.ops.attention import joined_bias
from lvlm_atlas.reference.refusal import Refusal


class NextLayer:
    """The decoder layer that is about to run; what a look has projected, the layer does not project again.

    Args:
        layer: the layer.
        index: which one it is.
        cache: holds what its tokens follow, in this layer and in those that come.
        on_read: see `Probe`.
    """

    def __init__(self, layer: Layer | Exchanged, index: int, cache: Cache, on_read: Callable[[int], None]) -> None:
        self.layer, self.index, self.cache, self.on_read = layer, index, cache, on_read
        self._sequence: Sequence | None = None
        self._normed_BND = self._query = self._key = Tensor()
        self._silent: tuple[Tensor, Tensor] | None = None

    @property
    def cached(self) -> int:
        """Entries a head that the layer holds already."""
        return self.cache.stores[self.index].length if self.cache.stores[self.index :] else 0

    def probe(self, sequence: Sequence) -> Probe:
        """The attention that the layer would have on these tokens, with its own norm, projections and rotation.

        Raises:
            Refusal: the cache holds keys unrotated, so that it is not known how those before the tokens are turned.
        """
        if self.cache.in_cache:
            raise Refusal("a layer cannot be looked ahead to where the cache holds unrotated keys; leave one out")
        self._look(sequence)
        key, real_BGS = self._all_keys(), None if sequence.real_BN is None else sequence.real_BN[:, None]
        if self.cached:
            key = torch.cat([self.cache.stores[self.index].read()[0], key], dim=2)
            held_BGS = self.cache.real(self.index)
            if held_BGS is not None or real_BGS is not None:
                raise Refusal("a layer cannot be looked ahead to behind a cache with padding; ask one request a time")
        cached_BGS = self.cache.bias(self.index, lambda: self.cache.held(self.index)) if self.cached else None
        bias_BGS = joined_bias(cached_BGS, sequence.bias_BN, self.cached, sequence.length)
        query = with_silent(self._query, sequence.silent)
        return Probe(query, key, causal=True, on_read=self.on_read, bias_BN=bias_BGS, real_BGS=real_BGS)

    def project(self, sequence: Sequence) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the tokens that ask, keys and values of all; what was looked at is let go. Rotated unless the
        cache holds unrotated keys.
        """
        self._look(sequence)
        value = self.layer.value(self._normed_BND, self._key)
        if self._silent is not None:
            value = torch.cat([self._silent[1], value], dim=2)
        projected = self._query, self._all_keys(), value
        self._sequence, self._normed_BND, self._silent = None, Tensor(), None
        return projected

    def _look(self, sequence: Sequence) -> None:
        """Project queries and keys, unless that is done for these very tokens."""
        if sequence is self._sequence:
            return
        silent = sequence.silent
        self._sequence, self._normed_BND = sequence, self.layer.input_layernorm(sequence.asking_BTD)
        position_BN = None if self.cache.in_cache else sequence.position_BN[:, silent:]
        self._query, self._key = self.layer.self_attn.query_key(self._normed_BND, position_BN)
        if silent:
            self._silent = cast("Exchanged", self.layer).read_alone(sequence.hidden_BND[:, :silent])

    def _all_keys(self) -> Tensor:
        """Keys of all tokens that were looked at."""
        return self._key if self._silent is None else torch.cat([self._silent[0], self._key], dim=2)


def with_silent(query_BHTd: Tensor, silent: int) -> Tensor:
    """Queries as the rows of a probe: zeros in front for the tokens that ask nothing, whose rows mean nothing."""
    return functional.pad(query_BHTd, (0, 0, silent, 0)) if silent else query_BHTd


def unchanged(patches: Patches) -> Patches:
    """Where nothing acts."""
    return patches


@dataclass(frozen=True)
class Upcoming:
    """The encoder layers that patches have not passed; what `Patches.ahead` calls."""

    run: Seq[Callable[[Patches], Patches]]
    """Every layer of the encoder, run whole and without techniques."""
    probe: Seq[Callable[[Patches], Probe]]
    """The attention that every layer would have on the patches that enter it."""
    first: int = 0
    """The first layer that has not run."""
    finish: Callable[[Patches], Patches] | None = None
    """What is left of the layer before it."""

    def inside(
        self, layer: int, finish: Callable[[Patches], Patches], change: Callable[[Patches], Patches]
    ) -> Callable[[Patches], Patches]:
        """`change` for patches in the middle of a layer, from which those after it can be looked ahead to."""
        here = replace(self, first=layer + 1, finish=finish)
        return lambda patches: change(replace(patches, upcoming=here))

    def __call__(self, patches: Patches, layer: int | None) -> Probe:
        """See `Patches.ahead`."""
        layer = self.first if layer is None else layer
        if not self.first <= layer < len(self.run):
            left = f"layers {self.first}..{len(self.run) - 1}" if self.first < len(self.run) else "no layer"
            raise Refusal(
                f"of this encoder's {len(self.run)} layers {left} can be looked ahead to here, got layer {layer}"
            )
        if self.finish is not None:
            patches = self.finish(patches)
        for run in self.run[self.first : layer]:
            patches = run(patches)
        return self.probe[layer](patches)
