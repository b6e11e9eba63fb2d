"""A runtime: what the software that runs a model adds to the roofline, with where each number is from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lvlm_atlas.limits import MOST_COUNT
from lvlm_atlas.schema.record import Id, Record, Ref, Source, Text

Share = Annotated[float, Field(ge=1e-3, le=1)]
Time = Annotated[float, Field(ge=0, le=1e7)]
Kernel = Literal[
    "linear", "narrow", "grouped", "attention", "cache", "encoder-attention", "window-attention", "elementwise",
    "technique",
]  # fmt: skip


class Law(Record):
    """How long kernels of a kind take: the longer of the two walls at the shares reached, and a start each."""

    compute: Share | None = None
    """Share of peak FLOP/s reached; of `narrow`, by products of a few rows. Absent: that of `linear`."""
    bandwidth: Share | None = None
    """Share of peak memory bandwidth reached; absent: that of `linear`."""
    start_us: Time | None = None
    """Microseconds that each kernel takes on top; absent: that of `linear`."""


class Host(Record):
    """What the host takes, beside or before the device."""

    request_ms: Time | None = None
    """Of a request, before its first pass."""
    image_ms: Time | None = None
    """Of an image or frame, before the encoder."""
    megapixel_ms: Time | None = None
    """Of a million pixels that enter the patch embedding."""
    step_ms: Time | None = None
    """Of a pass of the LLM, while the device waits."""
    layer_us: Time | None = None
    """Of an LLM layer in a pass: the time in which its kernels are started."""
    prompt_layer_us: Time | None = None
    """Of an LLM layer on top, in a pass that reads a prompt: where decoding alone runs from graphs."""
    encoder_layer_us: Time | None = None
    """Of an encoder layer."""
    narrow_layer_us: Time | None = None
    """Of an LLM layer on top, where its weights are narrower than 16 bits."""
    starts: Literal["hide", "add"] = "hide"
    """Whether starting kernels goes on while the device works, or before it."""


class Fit(Record):
    """What the times were fitted to, and how far they are off."""

    timings: tuple[Annotated[Id, Ref("timing")], ...] = Field(min_length=1)
    """The records of timings."""
    points: Annotated[int, Field(ge=1, le=10**6)]
    """Timings in them that count."""
    residual: Annotated[float, Field(ge=0, le=10)]
    """Median of |predicted over measured - 1| on those points."""
    left_out: Annotated[float, Field(ge=0, le=10)]
    """The same on what was left out of a fit to the rest."""
    left_out_by: Literal["source", "source and device", "request"]
    """What was left out in turn: a source; what a source says of a device; or a request, whatever its numbers were
    stored in. The last where sources measure different stages, so that none decides what another needs."""


class Judged(Record):
    """Timings kept aside: no number was fitted to them, so that they show what a prediction is worth."""

    timings: tuple[Annotated[Id, Ref("timing")], ...] = Field(min_length=1)
    """The records of timings."""
    points: Annotated[int, Field(ge=1, le=10**6)]
    """Timings in them that count."""
    error: Annotated[float, Field(ge=0, le=10)]
    """Median of |predicted over measured - 1| on them."""


class Runtime(Record):
    """One runtime, as it stands for some versions. Terms that no source gives are absent and cost nothing."""

    id: Id
    """Permanent id, equal to the file's name."""
    name: Text
    """Its name."""
    aliases: tuple[Text, ...] = ()
    """Other names and spellings."""
    engine: Annotated[Id, Ref("engine")] | None = None
    """The engine of the taxonomy that it is, if it is one."""
    versions: Text
    """The versions that the numbers stand for."""
    summary: Text = Field(max_length=280)
    """What it is, in one sentence."""
    kernels: dict[Kernel, Law] = Field(default_factory=dict)
    """How near kernels come to the peaks, by kind of operator; a kind without one goes by its nearest."""
    host: Host = Host()
    """What the host adds."""
    link_latency_us: Time | None = None
    """Microseconds that each sum over devices takes beside its traffic."""
    cache_copies: Annotated[float, Field(ge=0, le=100)] | None = None
    """How often a decoding step moves a cached byte beside reading it once."""
    repeats_heads: bool = False
    """Whether keys and values are written out for each query head before they are read."""
    encoder: Literal["eager", "compiled", "graphed"] | None = None
    """How the encoder runs; absent: not known."""
    wide_parts: tuple[Literal["encoder", "adapter", "output"], ...] = ()
    """Parts whose weights stay in 16 bits when weights are quantised."""
    scale_bit: Annotated[float, Field(ge=0, le=8)] | None = None
    """Bits of scales and zero points on top of each quantised weight of 4 bits or fewer."""
    logits: Literal["all", "last"] | None = None
    """Positions of the prompt for which the output matrix runs; absent: not known, and taken as the last."""
    prefill_chunk_token: Annotated[int, Field(ge=1, le=MOST_COUNT)] | None = None
    """Tokens of prompts that one pass reads at most, by default; absent: all, or not known."""
    memory_share: Share | None = None
    """Share of device memory that it takes by default, weights and cache included."""
    reserve_gb: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """GB taken besides weights, activations and caches."""
    times_of: Annotated[Id, Ref("runtime")] | None = None
    """The runtime whose kernels and host stand in, where no timing of this one was at hand."""
    fit: Fit | None = None
    """What the times were fitted to."""
    judged: Judged | None = None
    """What they were held against since."""
    sources: dict[Text, Source]
    """Where each field is from, by its name; fitted ones name the timings in `fit`."""
    notes: Text | None = None
    """What a reader should know besides."""

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> Self:
        given = [name for name in _FACTS if getattr(self, name) not in (None, (), False)]
        lacking = [name for name in given if name not in self.sources]
        if lacking:
            raise ValueError(f"gives {', '.join(lacking)} without a source; add it under `sources`")
        timed = bool(self.kernels) or self.host != Host() or self.link_latency_us is not None
        if timed and self.times_of:
            raise ValueError("has times of its own and `times_of` another; keep one of the two")
        if timed and not self.fit and not {"kernels", "host"} & self.sources.keys():
            raise ValueError("has times, but neither `fit` nor a source of them; say where they are from")
        return self


_FACTS = (
    "cache_copies", "repeats_heads", "encoder", "wide_parts", "scale_bit", "logits",
    "prefill_chunk_token", "memory_share", "reserve_gb",
)  # fmt: skip
"""Fields that are read, not fitted, unless `sources` says that they were."""
