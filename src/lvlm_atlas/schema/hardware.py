"""An accelerator: what it can compute, move and hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lvlm_atlas.limits import MOST_RATE
from lvlm_atlas.schema.record import Id, Record, Text
from lvlm_atlas.schema.sourced import Sourced

Amount = Annotated[float, Field(ge=1 / MOST_RATE, le=MOST_RATE)]
Share = Annotated[float, Field(ge=1e-6, le=1)]


class Peaks(Record):
    """Peak rates by type of number, of matrix units where there are some; absent: not supported, or not known."""

    fp32: Amount | None = None
    """TFLOP/s in 32-bit floating point."""
    tf32: Amount | None = None
    """TFLOP/s in TF32."""
    fp16: Amount | None = None
    """TFLOP/s in FP16 with FP32 accumulation."""
    bf16: Amount | None = None
    """TFLOP/s in BF16 with FP32 accumulation."""
    fp8: Amount | None = None
    """TFLOP/s in FP8 with FP32 accumulation."""
    int8: Amount | None = None
    """TOP/s in INT8."""
    fp4: Amount | None = None
    """TFLOP/s in FP4."""


class Link(Record):
    """The way to another accelerator."""

    type: Text
    """Its kind."""
    bidirectional_gb_s: Amount
    """GB/s in both directions together."""


class HostLink(Record):
    """The way to the host."""

    type: Text
    """Its kind."""
    per_direction_gb_s: Amount | None = None
    """GB/s in one direction; absent: unknown, or memory is shared with the host."""


class VisibleMemory(Record):
    """What software finds of a device's memory, which is neither the vendor's figure nor a round one."""

    gib: Amount
    """GiB that the driver reports in all."""
    source: Text
    """Who read it, and how."""


class Efficiency(Sourced):
    """What share of the peaks others found that software reaches. An estimate, not a property of the device."""

    bandwidth: Share | None = None
    """Share of the bandwidth that kernels bound by memory reach."""
    kernel_us: Amount | None = None
    """Microseconds that each kernel takes on top."""
    prefill_flop: Share | None = None
    """Share of the dense peak that prefilling reaches."""
    decode_flop: Share | None = None
    """Share of the dense peak in the compute term of decoding."""
    memory_reserve_gb: Amount | None = None
    """GB that servers need besides weights, activations and caches."""


class Hardware(Sourced):
    """One accelerator. All peaks are dense: no structured sparsity; a multiply-add counts 2; G and T are decimal."""

    id: Id
    """Permanent id, equal to the file's name."""
    name: Text
    """Its name."""
    aliases: tuple[Text, ...] = ()
    """Other names and spellings."""
    vendor: Text
    """Who makes it."""
    year: Annotated[int, Field(ge=2000, le=2100)]
    """Year of release."""
    architecture: Text
    """Its generation."""
    peak_tflop_s: Peaks
    """Peak rates."""
    fp16_accumulate_tflop_s: dict[Literal["fp16", "fp8"], Amount] = Field(default_factory=dict)
    """Peak rates with sums in FP16, by type, where they are higher: the types `fp16-acc16` and `fp8-acc16`."""
    bandwidth_gb_s: Amount
    """Bandwidth of device memory."""
    memory_gb: Amount
    """Capacity of device memory, in the vendor's GB."""
    visible_memory: VisibleMemory | None = None
    """What software finds of it, which estimates take; absent: not looked up, and they take the vendor's figure."""
    link: Link | None = None
    """The way to another accelerator; absent: only the host's."""
    host_link: HostLink
    """The way to the host."""
    tdp_w: Amount | None = None
    """Thermal design power; absent: not published."""
    efficiency: Efficiency | None = None
    """What share of the peaks others found that software reaches."""
