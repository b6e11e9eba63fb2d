"""What the engine must know of a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lvlm_atlas.roofline.deployment import TYPICAL, Efficiency


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator. Peaks are dense: no structured sparsity."""

    id: str
    """Its id."""
    name: str
    """Its name."""
    peak_flop_s: Mapping[str, float]
    """Peak FLOP/s of matrix units by type of number (`fp16`, `bf16`, `fp8`, `int8`, …), with sums in FP32, or in FP16
    (`fp16-acc16`, `fp8-acc16`); a multiply-add counts 2."""
    bandwidth_byte_s: float
    """Peak bandwidth of device memory."""
    memory_byte: float
    """Capacity of device memory, as software finds it where that is known."""
    memory_source: str = ""
    """Who read that; empty: it is the vendor's figure."""
    link_byte_s: float | None = None
    """Bandwidth to another device in one direction; None: there is no link but the host's."""
    host_link_byte_s: float | None = None
    """Bandwidth to the host in one direction; None: unknown, or memory is shared with it."""
    tdp_w: float | None = None
    """Thermal design power; None: not published."""
    typical: Efficiency = TYPICAL
    """How near its kernels were found to come to the peaks: what the preset `typical` stands for on it."""

    def ridge(self, dtype: str) -> float:
        """FLOP per byte from which on arithmetic sets the time (survey, eq. 10)."""
        return self.peak_flop_s[dtype] / self.bandwidth_byte_s
