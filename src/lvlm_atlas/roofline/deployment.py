"""How a model runs on its devices: types of numbers, parallelism, kernels, and how near they come to the peaks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.limits import MOST_COUNT, MOST_PRICE_USD_H, MOST_RATE
from lvlm_atlas.roofline.runtime import Host, Runtime

BITS: Mapping[str, int] = {
    "fp32": 32, "tf32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4, "int4": 4, "int2": 2,
    "fp16-acc16": 16, "fp8-acc16": 8,
}  # fmt: skip
"""Bits of a number of each type; `-acc16` sums products in FP16, which some devices do faster than in FP32."""
Attention = Literal["fused", "materialised"]
"""What prefill attention does with its scores."""
_LONG = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "half": "fp16"}


def dtype_named(name: str) -> str:
    """The short name of a type of numbers.

    Raises:
        AtlasError: there is no such type.
    """
    short = _LONG.get(name.lower(), name.lower())
    if short not in BITS:
        raise AtlasError(f"no type of numbers {name!r}; {suggestion(name, [*BITS, *_LONG])}")
    return short


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """How near kernels come to the peaks, and where each factor is from. All 1 and 0: the roofline's bound."""

    name: str = "ideal"
    """Name of the preset, or `custom`."""
    compute: float = 1.0
    """Share of peak FLOP/s reached."""
    bandwidth: float = 1.0
    """Share of peak memory bandwidth reached."""
    kernel_floor_s: float = 0.0
    """Time that each kernel takes on top."""
    kv_traffic: float = 1.0
    """Bytes moved for each cached byte that a decoding step reads; 1 with a kernel that reads the cache in place."""
    reserve_byte: float = 0.0
    """Device memory taken by anything but weights, cache and activations."""
    token_budget: int | None = None
    """Most tokens of a pass over prompts, where the deployment names none; None: no limit."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each factor is from."""


IDEAL = Efficiency(
    sources={"all factors": "1 by definition: a bound for these operators; only fusing more of them moves less"}
)

TYPICAL = Efficiency(
    name="typical",
    compute=0.38,
    bandwidth=0.8,
    kernel_floor_s=3e-6,
    reserve_byte=3.5 * 2**30,
    token_budget=2048,
    sources={
        "compute": "inference-sim, hardware_config.json: whole-step share of the dense peak, calibrated for vLLM "
        "prefill; 0.38 on A100, 0.45 on H100, 0.32 on L40S",
        "bandwidth": "ai-dynamo/aiconfigurator, system files: 0.8 of the peak, which its authors call a correction "
        "from observations",
        "kernel_floor_s": "ai-dynamo/aiconfigurator, system files: 3 microseconds a kernel",
        "reserve_byte": "ai-dynamo/aiconfigurator, system files: 3.5 GiB",
        "token_budget": "vLLM, vllm/engine/arg_utils.py, default of a server: 8,192 on devices of 70 GiB or more but "
        "the A100, 2,048 on others",
    },
)

SURVEY = Efficiency(
    name="survey",
    kernel_floor_s=(36.25e-3 - 16.38e-3) / (28 * 13 + 1),
    kv_traffic=13.15e-3 * 864,
    sources={
        "compute": "1; table 8 says nothing of it",
        "bandwidth": "1; the intercept of table 8 is read as kernel floors instead",
        "kernel_floor_s": "survey, table 8: least squares over the three rows give 36.25 ms without cache, 19.87 ms "
        "over the time of one read of the weights on an L40S, spread over 28 layers of 13 kernels and 1 for the output",
        "kv_traffic": "survey, table 8: 13.15 ms per GB of cache, 11.4 times one read at 864 GB/s",
    },
)

PRESETS: Mapping[str, Efficiency] = {each.name: each for each in (IDEAL, TYPICAL, SURVEY)}
"""Presets by name."""


def efficiency_named(name: str) -> Efficiency:
    """The preset of that name.

    Raises:
        AtlasError: there is none.
    """
    if name not in PRESETS:
        raise AtlasError(f"no efficiency preset {name!r}; {suggestion(name, PRESETS)}")
    return PRESETS[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """How the model is run.

    Raises:
        AtlasError: a number is not finite, or outside its range.
    """

    weight_dtype: str | None = None
    """Type of the weights; None: the model's."""
    activation_dtype: str | None = None
    """Type of the activations, in which products are computed; None: 16 bits, as the model's."""
    kv_dtype: str | None = None
    """Type of the cache; None: that of the activations."""
    tensor_parallel: int = 1
    """Devices that share each layer."""
    pipeline_parallel: int = 1
    """Groups of layers on devices of their own."""
    attention: Attention = "fused"
    """Whether prefill attention keeps scores on chip and skips what the causal mask hides, or writes and reads the
    whole square."""
    token_budget: int | None = None
    """Most tokens of a pass over prompts, as servers split them: it bounds activations; None: as `efficiency` says, and
    with the ideal one all prompts of the batch go through together."""
    unused_layers: bool = True
    """Whether encoder layers behind the features used run all the same, as in transformers."""
    efficiency: Efficiency = IDEAL
    """How near kernels come to the peaks."""
    image_rate: float | None = None
    """Megapixels of images, as they are sent, that the host decodes and resizes a second, in place of all that the
    runtime takes for images and frames; None: as the runtime says.
    """
    video_rate: float | None = None
    """Megapixels of frames that it decodes a second, all that a video's file holds; None: no time."""
    price_usd_h: float | None = None
    """Price of a device for an hour."""
    runtime: Runtime | None = None
    """The runtime whose kernels and host these are; it takes the place of `efficiency`. None: that alone."""

    def on(self, typical: Efficiency) -> Deployment:
        """The same deployment; the preset `typical` stands for what was found on the device."""
        return replace(self, efficiency=typical) if self.efficiency == TYPICAL else self

    def __post_init__(self) -> None:
        if self.attention not in get_args(Attention):
            raise AtlasError(f"attention is {self.attention!r}; give {' or '.join(get_args(Attention))}")
        for name in ("tensor_parallel", "pipeline_parallel"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise AtlasError(f"{name} is {getattr(self, name)!r}; give a whole number of devices, 1 or more")
        if self.token_budget is not None and not 1 <= self.token_budget <= MOST_COUNT:
            raise AtlasError(f"token_budget is {self.token_budget!r}; give a whole number of tokens, 1 or more")
        for name in ("image_rate", "video_rate"):
            rate = getattr(self, name)
            if rate is not None and not 1e-6 <= rate <= MOST_RATE:
                raise AtlasError(f"{name} is {rate!r}; give megapixels a second from 1e-06 to {MOST_RATE:g}")
        price = self.price_usd_h
        if price is not None and not 0 <= price <= MOST_PRICE_USD_H:
            raise AtlasError(f"price_usd_h is {price!r}; give a price from 0 to {MOST_PRICE_USD_H:g}")
        for name in ("compute", "bandwidth"):
            share = getattr(self.efficiency, name)
            if not 0 < share <= 1:
                raise AtlasError(f"efficiency {name} is {share!r}; give a share above 0, 1 at most")
        for name, least in (("kernel_floor_s", 0.0), ("kv_traffic", 1.0), ("reserve_byte", 0.0)):
            number = getattr(self.efficiency, name)
            if not (math.isfinite(number) and number >= least):
                raise AtlasError(f"efficiency {name} is {number!r}; give a number of {least:g} or more")

    @property
    def host(self) -> Host:
        """What the host adds: as the runtime says, and at the rates given."""
        host = self.runtime.host if self.runtime else Host()
        if self.image_rate is not None:
            host = replace(host, image_s=0.0, megapixel_s=0.0, image_pixel_s=1e-6 / self.image_rate)
        return host if self.video_rate is None else replace(host, video_pixel_s=1e-6 / self.video_rate)

    @property
    def memory_share(self) -> float:
        """Share of device memory that software takes."""
        return self.runtime.memory_share if self.runtime else 1.0

    @property
    def pass_tokens(self) -> int | None:
        """Most tokens of a pass over prompts; None: no limit."""
        runtime = self.runtime
        own = runtime.host.chunk_token if runtime else None
        serves = runtime is None or runtime.memory_share < 1  # others read prompts whole
        return self.token_budget or own or (self.efficiency.token_budget if serves else None)

    @property
    def pace(self) -> str:
        """What the times stand for: the runtime, or a preset of efficiency."""
        return self.runtime.name if self.runtime else f"{self.efficiency.name} efficiency"

    @property
    def reserve_byte(self) -> float:
        """Device memory taken by anything but weights, cache and activations."""
        own = self.runtime.reserve_byte if self.runtime else None
        return self.efficiency.reserve_byte if own is None else own

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.tensor_parallel * self.pipeline_parallel
