"""AKVQ-VL: 2-bit entries behind a Walsh-Hadamard rotation; text in the first layers and pivot tokens after have more.

Paper: su2025akvqvl (its abstract; parameters and their defaults are second-hand, and no code is released). Symbols:
n_r → `recent`; U → `pivots`; g → `group_size`; c → `clip`; L_t → `text_layers`.

Settled keys and values are multiplied by H_d / √d, which spreads outlier channels, and quantised in groups of g
channels of a token (`ops.quantisation.quantise`): over c of their range at 2 bits, over all of it at 4. The rotation
keeps lengths, so that the squared error of a vector is at most the sum over its rotated numbers of max(s / 2, what lies
outside of the clipped range)².

Departs:
1. What is read is rotated back. The paper rotates queries instead, and folds the rotation of values into weights; the
   products are the same.
2. How pivots are found is not in what was read. Here they are the tokens with the largest magnitude of a channel in
   what enters layer L_t, as tokens of massive activations have it.
3. The window of recent tokens counts text alone in the first L_t layers, and no pivots in the others; a pivot that a
   policy evicts leaves its place to the window.

B batch · N tokens · G key-value heads · S entries · d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.parted import HeadStore, SortedStore
from lvlm_atlas.reference.caches.quantised import Half, QuantisedStore
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.flow.states import Entries, Sequence
from lvlm_atlas.reference.lvlm.contexts import CacheBits, LlmLayer
from lvlm_atlas.reference.lvlm.filling import places_among
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.quantisation import Format, quantise, rotated, uniform  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.ops.rotation import hadamard
from lvlm_atlas.reference.refusal import Refusal


def greatest_magnitudes(hidden_BND: Tensor) -> Tensor:
    """The largest magnitude of a channel of each token, (B, N), float32."""
    return hidden_BND.float().abs().amax(dim=-1)


def pivots_of(magnitude_BGS: Tensor, visible_BGS: Tensor, count: int) -> Tensor:
    """True (B, G, S) at the `count` entries of greatest magnitude in each head; padding comes last."""
    ranked_BGS = magnitude_BGS.masked_fill(~visible_BGS, -1.0)
    best_BGU = ranked_BGS.topk(min(count, ranked_BGS.shape[2]), dim=2).indices
    return torch.zeros_like(visible_BGS, dtype=torch.bool).scatter(2, best_BGU, value=True)


class _PivotStore(SortedStore):
    """Pivots of the first prompt in the first store; all that comes later goes to the second."""

    def announce(self, vision_BGM: Tensor) -> None:
        """See `Store`; modality does not matter."""


@dataclass(frozen=True)
class AkvqVl(Technique):
    """AKVQ-VL at `llm-layer`, where it looks for pivots, and at `cache-bits`.

    Raises:
        ValueError: a parameter out of its range.
        Refusal: the codes of a group do not fill whole bytes.
    """

    text_layers: int = 2
    """First layers L_t, in which text has 4 bits."""
    recent: int = 128
    """Recent tokens n_r in full precision."""
    pivots: int = 15
    """Pivot tokens U in full precision."""
    group_size: int = 128
    """Channels g of a token that share a scale; divides the head dimension."""
    clip: float = 0.8
    """Part c of a group's range that the levels of 2 bits are spread over."""

    acts_at: ClassVar = ("llm-layer", "cache-bits")
    only_looks_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("low-bit-kernel", "modality-mask", "vision-in-sequence")

    def __post_init__(self) -> None:
        for name in ("text_layers", "recent", "pivots"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.group_size < 1:
            raise ValueError(f"group_size must be at least 1, got {self.group_size}")
        if not 0 < self.clip <= 1:
            raise ValueError(f"clip must lie in (0, 1], got {self.clip}")
        if self.group_size % 4:
            raise Refusal(f"group_size must be a multiple of 4, so that codes fill whole bytes, got {self.group_size}")

    def begin(self, run: Run) -> _Acting:  # noqa: ARG002
        """What acts in one run."""
        return _Acting(self)


class _Acting:
    def __init__(self, setting: AkvqVl) -> None:
        self.setting = setting
        self.index_BN = self.magnitude_BN = torch.empty(0)

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens as they are; those of the first prompt are looked at before layer L_t."""
        if at.layer == self.setting.text_layers and self.magnitude_BN.dim() == 1:
            self.index_BN, self.magnitude_BN = at.sequence.index_BN, greatest_magnitudes(at.sequence.hidden_BND)
        return at.sequence

    def new_store(self, at: CacheBits) -> Store:
        """An empty store, head by head: by modality in the first layers, pivots apart in the others.

        Raises:
            Refusal: the head dimension is no power of two, or sequences of a batch differ.
        """
        setting, entries = self.setting, at.entries
        width = entries.key_BGSd.shape[3]
        if width & (width - 1):
            raise Refusal(f"a Walsh-Hadamard rotation needs a head dimension that is a power of two, got {width}")
        rotation_dd = hadamard(width, entries.key_BGSd)
        two, four = rotated(uniform(2, setting.clip), rotation_dd), rotated(uniform(4), rotation_dd)
        if at.layer < setting.text_layers:
            return HeadStore(
                [
                    (1, SortedStore(one, self._coded(two), self._coded(four, setting.recent)))
                    for one in torch.split(self._alike(entries.vision_BGS), 1, 1)
                ]
            )
        pivot_BGS = pivots_of(self._magnitudes(entries), entries.held.visible_BGS, setting.pivots)
        stores = []
        for one in torch.split(pivot_BGS, 1, 1):
            pivots = PlainStore()
            # Room that pivots have left is the window's.
            stores.append((1, _PivotStore(one, pivots, self._coded(two, setting.recent, setting.pivots, pivots))))
        return HeadStore(stores)

    def _coded(self, form: Format, recent: int = 0, room: int = 0, beside: Store | None = None) -> Store:
        """Codes of all but the recent entries, and as many more as `beside` holds less than it has room for."""
        size = self.setting.group_size

        def coded(length: int) -> tuple[int, int]:
            exact = recent + room - (beside.length if beside else 0)
            return (max(0, length - exact),) * 2

        return QuantisedStore(Half(form, size, across_tokens=False), Half(form, size, across_tokens=False), coded)

    def _magnitudes(self, entries: Entries) -> Tensor:
        if len(self.index_BN) != len(entries.index_BGS):
            raise Refusal(
                "pivots of a batch whose heads hold different numbers of entries are not told apart; ask one "
                "request a time"
            )
        place_BGS = places_among(self.index_BN, entries.index_BGS)
        return self.magnitude_BN.gather(1, place_BGS.flatten(1)).reshape(place_BGS.shape)

    def _alike(self, vision_BGS: Tensor) -> Tensor:
        count_BG = vision_BGS.sum(dim=2)
        if len(count_BG) > 1 and bool((count_BG != count_BG[0]).any()):
            raise Refusal(f"sequences of a batch must hold equally many vision entries, got {count_BG.tolist()}")
        return vision_BGS
