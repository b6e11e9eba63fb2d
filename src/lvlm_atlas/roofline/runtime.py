"""What the software that runs a model adds to the roofline: how near its kernels come, and what its host does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.operator import LAWS


@dataclass(frozen=True, slots=True)
class Law:
    """How long kernels of a kind take: the longer of the two walls at the shares reached, and a start each."""

    compute: float = 1.0
    """Share of peak FLOP/s reached."""
    bandwidth: float = 1.0
    """Share of peak memory bandwidth reached."""
    start_s: float = 0.0
    """Time that each kernel takes on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Seconds that the host takes, beside or before the device."""

    request_s: float = 0.0
    """Of a request, before its first pass: transport, tokenizer, scheduling."""
    image_s: float = 0.0
    """Of an image or frame, before the encoder."""
    megapixel_s: float = 0.0
    """Of a million pixels that enter the patch embedding."""
    image_pixel_s: float = 0.0
    """Of a pixel of an image as it is sent, where a deployment says at what rate they are decoded."""
    video_pixel_s: float = 0.0
    """Of a pixel of a frame that a video's file holds, alike."""
    step_s: float = 0.0
    """Of a pass of the LLM, while the device waits: scheduling, sampling, the way of a token to the next pass."""
    layer_s: float = 0.0
    """Of an LLM layer in a pass: the time in which its kernels are started."""
    prompt_layer_s: float = 0.0
    """Of an LLM layer on top, in a pass that reads a prompt: where decoding alone runs from graphs."""
    encoder_layer_s: float = 0.0
    """Of an encoder layer."""
    narrow_layer_s: float = 0.0
    """Of an LLM layer on top, where its weights are narrower than 16 bits."""
    chunk_token: int | None = None
    """Tokens of prompts that one pass reads at most; None: all."""
    hides: bool = True
    """Whether starting kernels goes on while the device works, so that a layer takes the longer of the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A runtime, as it stands for its versions.

    Raises:
        AtlasError: a number is not finite, or outside its range.
    """

    id: str
    """Its id."""
    name: str
    """Its name."""
    versions: str = ""
    """The versions that it stands for."""
    laws: Mapping[str, Law] = field(default_factory=dict, hash=False)
    """By kind of operator, of `operator.LAWS`; a kind without one goes by that of `linear`."""
    host: Host = field(default_factory=Host)
    """What the host adds."""
    few_compute: float | None = None
    """Share of peak FLOP/s that products of a few rows with narrow weights reach; None: memory alone bounds them."""
    link_latency_s: float = 0.0
    """Time that each sum over devices takes beside its traffic."""
    cache_copies: float = 0.0
    """How often a decoding step moves a cached byte beside reading it once, as where each step copies the cache."""
    repeats_heads: bool = False
    """Whether keys and values are written out for each query head before they are read."""
    wide_parts: tuple[str, ...] = ()
    """Parts whose weights stay in 16 bits when weights are quantised: `encoder`, `adapter`, `output`."""
    scale_bit: float = 0.0
    """Bits of scales and zero points on top of each quantised weight of 4 bits or fewer."""
    memory_share: float = 1.0
    """Share of device memory that it takes, weights and cache included."""
    logits_of_all: bool = False
    """Whether the output matrix runs for all positions of the prompt, not for the last alone."""
    reserve_byte: float | None = None
    """Device memory taken by anything but weights, cache and activations; None: as the preset beside it says."""
    residual: float | None = None
    """Median of |predicted over measured - 1| on sources left out of the fit; None: no timing was at hand."""
    fitted: str = ""
    """What the numbers rest on, in words."""

    def __post_init__(self) -> None:
        for name, law in self.laws.items():
            if name not in LAWS:
                raise AtlasError(f"runtime {self.id}: no kind of operator {name!r}; give one of {', '.join(LAWS)}")
            if not (0 < law.compute <= 1 and 0 < law.bandwidth <= 1):
                raise AtlasError(f"runtime {self.id}, {name}: shares are above 0, 1 at most")
            if not (math.isfinite(law.start_s) and law.start_s >= 0):
                raise AtlasError(f"runtime {self.id}, {name}: start_s is {law.start_s!r}; give a time of 0 or more")

    def law(self, kind: str) -> Law:
        """The law of a kind of operator."""
        while kind not in self.laws and kind != "linear":
            kind = _NEAREST.get(kind, "linear")
        return self.laws.get(kind) or Law()

    def kv_traffic(self, heads_per_kv_head: float) -> float:
        """Bytes moved for each cached byte that a decoding step reads."""
        repeated = 2 * heads_per_kv_head if self.repeats_heads and heads_per_kv_head > 1 else 0.0
        return 1 + self.cache_copies + repeated


_NEAREST = {"narrow": "linear", "grouped": "linear", "window-attention": "encoder-attention",
            "encoder-attention": "attention", "cache": "attention"}  # fmt: skip
"""The kind whose law stands in for that of another."""
