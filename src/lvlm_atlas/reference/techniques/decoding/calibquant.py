"""CalibQuant: the cache of vision tokens in one bit a number, and their logits calibrated.

Paper: han2025calibquant; formulas as in the official code (`calibquant.py`, `patch_internvl.py`). Symbols: b → `bits`;
the parts of a channel's range that levels are spread over, c_K → `key_clip` and c_V → `value_clip`; τ_max →
`lower_top`, τ_min → `raise_bottom`.

A channel of a key-value head has two numbers for each of keys and values, its least and its greatest over all vision
tokens. Clipped by c they are the ends of 2^b levels, and no number is off by more than half a step or by what it lies
outside of them. With one bit a number becomes one of the two ends.

Departs:
1. Codes are read back before they are multiplied. The official kernels multiply codes and apply scale and zero point to
   the query and to the output (`post_scaled_logits`, `post_scaled_output`), which is the same but for rounding.
2. The first code of a byte lies in its lowest bits, in the official code in its highest.
3. A channel whose numbers are all equal has codes of 0; the official code divides by 0 there.
4. Images of later prompts are held in the ranges of those before; the official code reads one prompt. Calibration acts
   on decoding alone, there too.
5. The official code adds 1e-8 to the spread of a row's logits; here a row without spread stays as it is but for τ_min.

B batch · H query heads · G key-value heads · M new tokens · R entries that are read · V vision entries · d head
dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.parted import by_modality
from lvlm_atlas.reference.caches.quantised import ChannelHalf, QuantisedStore
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.lvlm.contexts import CacheBits
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.attention import mask_of_heads, share_heads
from lvlm_atlas.reference.ops.quantisation import levels, pack  # noqa: F401 - steps of the entry

OFF = 16
"""Bits that mean: no quantisation."""
CALIBRATED = 2
"""The most bits at which logits are calibrated."""


def post_scaled_logits(query_BHMd: Tensor, level_BHVd: Tensor, scale_BH1d: Tensor, zero_BH1d: Tensor) -> Tensor:
    """Products (B, H, M, V) of queries with keys level · s + z, whose scale and zero point are the query's to bear."""
    constant_BHM1 = (query_BHMd * zero_BH1d).sum(-1, keepdim=True)
    logit_BHMV: Tensor = (query_BHMd * scale_BH1d) @ level_BHVd.mT + constant_BHM1
    return logit_BHMV


def post_scaled_output(weight_BHMV: Tensor, level_BHVd: Tensor, scale_BH1d: Tensor, zero_BH1d: Tensor) -> Tensor:
    """The sum (B, H, M, d) of values level · s + z by these weights, scale and zero point applied to the sum."""
    output_BHMd: Tensor = weight_BHMV @ level_BHVd * scale_BH1d + weight_BHMV.sum(-1, keepdim=True) * zero_BH1d
    return output_BHMd


def calibrated(logit_BHMR: Tensor, vision_BHR: Tensor, lower_top: float, raise_bottom: float) -> Tensor:
    """Logits whose vision entries are mapped, row by row, from [min, max] to [min + τ_min, max − τ_max] on a line.

    Args:
        logit_BHMR: logits of all entries.
        vision_BHR: True where an entry is visual.
        lower_top: τ_max. A row that spreads less than τ_max + τ_min comes out in the reverse order.
        raise_bottom: τ_min.
    """
    vision_BH1R = vision_BHR[:, :, None]
    low_BHM1 = logit_BHMR.masked_fill(~vision_BH1R, torch.inf).amin(-1, keepdim=True)
    high_BHM1 = logit_BHMR.masked_fill(~vision_BH1R, -torch.inf).amax(-1, keepdim=True)
    spread_BHM1 = high_BHM1 - low_BHM1
    place_BHMR = ((logit_BHMR - low_BHM1) / spread_BHM1).where(spread_BHM1 > 0, 0)
    mapped_BHMR = low_BHM1 + raise_bottom + place_BHMR * (spread_BHM1 - lower_top - raise_bottom)
    return mapped_BHMR.where(vision_BH1R, logit_BHMR)


class _VisionStore(QuantisedStore):
    """Vision entries as codes, whose logits are calibrated.

    Args:
        setting: the technique.
        room: such as a channel's ranges, (B, 1, 1, d), if there is to be room for them in any case.
    """

    def __init__(self, setting: CalibQuant, room: Tensor | None = None) -> None:
        bits = setting.bits
        clips = (setting.key_clip, setting.value_clip) if bits == 1 else (1.0, 1.0)
        rooms = [() if room is None else (torch.empty_like(room), torch.empty_like(room)) for _ in clips]
        super().__init__(ChannelHalf(bits, clips[0], rooms[0]), ChannelHalf(bits, clips[1], rooms[1]))
        self._shifts = (setting.lower_top, setting.raise_bottom) if bits <= CALIBRATED else (0.0, 0.0)

    def logit_bias(self, query_BHMd: Tensor, key_BGRd: Tensor, held: Callable[[], Held]) -> Tensor | None:
        """See `Store`: calibrated logits less the plain ones."""
        if not any(self._shifts) or not key_BGRd.shape[2]:
            return None
        heads, entries = query_BHMd.shape[1], held()
        logit_BHMR = query_BHMd @ share_heads(key_BGRd, heads).mT / query_BHMd.shape[3] ** 0.5
        vision_BHR = mask_of_heads(entries.vision_BGS & entries.visible_BGS, heads)
        bias_BHMR: Tensor = calibrated(logit_BHMR, vision_BHR, *self._shifts) - logit_BHMR
        return bias_BHMR


@dataclass(frozen=True)
class CalibQuant(Technique):
    """CalibQuant at `cache-bits`.

    Raises:
        ValueError: a parameter out of its range.
        Refusal: codes of a token do not fill whole bytes.
    """

    bits: int = 1
    """Bits b of a code; 16 turns quantisation and calibration off."""
    key_clip: float = 0.5
    """Part c_K of a channel's range in keys, at one bit."""
    value_clip: float = 0.3
    """Part c_V of a channel's range in values, at one bit."""
    lower_top: float = 3.0
    """How much lower τ_max the greatest logit of a row's vision entries becomes, at one or two bits."""
    raise_bottom: float = 0.0
    """How much higher τ_min the least one becomes."""

    acts_at: ClassVar = ("cache-bits",)
    needs: ClassVar = ("low-bit-kernel", "modality-mask", "vision-in-sequence")

    def __post_init__(self) -> None:
        if self.bits not in (1, 2, 4, 8, OFF):
            raise ValueError(f"bits must be 1, 2, 4, 8 or {OFF}, got {self.bits}")
        for name in ("key_clip", "value_clip"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        self.expect_at_least(0, "lower_top", "raise_bottom")

    def new_store(self, at: CacheBits) -> Store:
        """An empty store: vision entries as codes, the others as they come."""
        if self.bits == OFF:
            return PlainStore()
        room = at.entries.key_BGSd[:, :1, :1]
        # A head without vision entries has ranges all the same if others of the layer have some.
        return by_modality(
            at.entries.vision_BGS, lambda: _VisionStore(self), PlainStore, apart=lambda: _VisionStore(self, room)
        )
