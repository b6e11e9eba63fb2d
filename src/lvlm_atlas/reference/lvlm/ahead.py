"""The attention of layers that are about to run, for techniques that decide by it.

Nothing is projected unless somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches, Sequence
from lvlm_atlas.reference.lvlm.decoder import Layer
from lvlm_atlas.reference.refusal import Refusal


class NextLayer:
    """The decoder layer that is about to run; what a look has projected, the layer does not project again.

    Args:
        layer: the layer.
        on_read: see `Probe`.
    """

    def __init__(self, layer: Layer, on_read: Callable[[int], None]) -> None:
        self.layer, self.on_read = layer, on_read
        self._sequence: Sequence | None = None
        self._normed_BND = self._query = self._key = Tensor()

    def probe(self, sequence: Sequence) -> Probe:
        """The attention that the layer would have on these tokens, with its own norm, projections and rotation."""
        self._look(sequence)
        return Probe(self._query, self._key, causal=True, on_read=self.on_read, real_BN=sequence.real_BN)

    def project(self, sequence: Sequence) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of these tokens as in `Layer.project`; what was looked at is let go."""
        self._look(sequence)
        projected = self._query, self._key, self.layer.self_attn.value(self._normed_BND)
        self._sequence, self._normed_BND = None, Tensor()
        return projected

    def _look(self, sequence: Sequence) -> None:
        """Project queries and keys, unless that is done for these very tokens."""
        if sequence is self._sequence:
            return
        self._sequence, self._normed_BND = sequence, self.layer.input_layernorm(sequence.hidden_BND)
        self._query, self._key = self.layer.self_attn.query_key(self._normed_BND, sequence.position_BN)


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
