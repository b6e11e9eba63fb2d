"""A model as it lies on its devices: bytes of each number, shards, and what all operators share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.deployment import BITS, Deployment, dtype_named
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.operator import FEW_ROWS, LAWS, Machine, Walls, Work
from lvlm_atlas.roofline.runtime import Host
from lvlm_atlas.roofline.weights import Weights, number_type, weights_byte, weights_of

WIDE_BYTE = 2.0
"""Bytes of a weight that no runtime quantised."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A model, the types of its numbers, and how its operators are split."""

    model: Model
    batch: int
    """Requests processed together."""
    weights: Weights
    """Types of the weights, part by part."""
    part_byte: Mapping[str, float]
    """Bytes of the weights of each part."""
    vision_byte: float
    """Bytes of the weights of encoder and adapter."""
    llm_byte: float
    """Bytes of the weights of the LLM, embeddings included."""
    activation_byte: float
    """Bytes of an activation."""
    kv_byte: float
    """Bytes of a cached number that no technique quantises, its part of a scale included."""
    compute_dtype: str
    """Type whose peak the products reach."""
    materialised: bool
    """Whether prefill attention writes its scores to memory."""
    kv_traffic: float
    """Bytes moved for each cached byte read."""
    shards: int
    """Devices that share each layer of the LLM."""
    hops: int
    """Times that the LLM's hidden states go on to another device: groups of layers but one."""
    encoder_shards: int
    """Devices that share each layer of the encoder: 1 where its heads cannot be split, so that each runs it whole."""
    encoder_layers: int
    """Encoder layers that run."""
    logits_of_all: bool = False
    """Whether the output matrix runs for all positions of the prompt."""
    host: Host = field(default_factory=Host)
    """What the host adds to each pass."""

    @property
    def weight_byte(self) -> float:
        """Bytes of a weight of the LLM's layers."""
        return self.weights.types["llm"].byte

    def linear(
        self, name: str, rows: float, into: int, out: int, layers: float = 1, *, shards: int = 1, matrices: int = 1,
        weights: float | None = None,
    ) -> Work:  # fmt: skip
        """A product of `rows` rows with a matrix, in each of so many layers.

        Args:
            name: name of the operator.
            rows: rows of the input.
            into: width of the input.
            out: width of the output.
            layers: how many of them there are.
            shards: devices that share it.
            matrices: separate matrices of these shapes, each reading the input.
            weights: matrices whose weights are read, where that differs from those used.
        """
        read = matrices if weights is None else weights
        weight_byte = self.weights.byte(name)
        return Work(
            name, "linear",
            flop=layers * matrices * 2 * rows * into * out,
            weight_byte=layers * read * into * out * weight_byte,
            activation_byte=layers * matrices * rows * (into + out) * self.activation_byte,
            kernels=layers * matrices, shards=shards,
            **self._narrow(layers * matrices * 2 * min(rows, FEW_ROWS) * into * out, weight_byte),
        )  # fmt: skip

    def _narrow(self, few_flop: float, weight_byte: float) -> dict[str, Any]:
        """What sets a product with narrow weights apart from others."""
        return {"law": "narrow", "few_flop": few_flop} if weight_byte < WIDE_BYTE else {}

    def all_reduce(self, part: str, rows: float, width: int, shards: int, layers: float) -> list[Work]:
        """Two sums in each layer over all devices that share it, by rings; none where each is alone.

        Args:
            part: part of the model.
            rows: rows of the hidden states, over all layers.
            width: their width.
            shards: devices that share a layer.
            layers: how many layers there are.
        """
        byte = 2 * rows * width * self.activation_byte
        link = 2 * (shards - 1) / shards * byte
        return [Work(f"{part}.all_reduce", "link", link_byte=link, kernels=2 * layers)] if shards > 1 else []


def layout(model: Model, batch: int, deployment: Deployment) -> Layout:
    """How the model lies on its devices.

    Raises:
        AtlasError: the heads cannot be split among the devices, or a type of numbers is unknown.
    """
    shards = deployment.tensor_parallel
    heads = model.llm.heads
    if heads % shards:
        options = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise AtlasError(f"tensor_parallel is {shards}; {model.name} has {heads} heads, so give one of {options}")
    if deployment.pipeline_parallel > model.llm.layers:
        raise AtlasError(
            f"pipeline_parallel is {deployment.pipeline_parallel}; {model.name} has {model.llm.layers} layers, "
            "give that many at most"
        )
    types = weights_of(deployment, model)
    parts = weights_byte(types, model)
    weight = types.types["llm"].dtype
    activation = dtype_named(deployment.activation_dtype or (model.dtype if BITS[weight] <= 16 else weight))
    kv = number_type(deployment.kv_dtype or activation.removesuffix("-acc16"), "kv_dtype")
    encoder, runtime = model.encoder, deployment.runtime
    return Layout(
        model=model,
        batch=batch,
        weights=types,
        part_byte=parts,
        vision_byte=parts["encoder"] + parts["adapter"],
        llm_byte=sum(byte for part, byte in parts.items() if part not in ("encoder", "adapter")),
        activation_byte=BITS[activation] / 8,
        kv_byte=kv.byte,
        compute_dtype=activation,
        materialised=deployment.attention == "materialised",
        kv_traffic=runtime.kv_traffic(heads / model.llm.kv_heads) if runtime else deployment.efficiency.kv_traffic,
        shards=shards,
        hops=deployment.pipeline_parallel - 1,
        encoder_shards=1 if encoder.heads % shards else shards,
        encoder_layers=encoder.layers if deployment.unused_layers else encoder.layers_needed,
        logits_of_all=bool(runtime and runtime.logits_of_all),
        host=deployment.host,
    )


def machine(device: Device, layout: Layout, deployment: Deployment) -> tuple[Machine, str]:
    """The device's two walls for this layout, and the type of numbers whose peak was taken.

    Raises:
        AtlasError: the device has no peak for the type of the activations.
    """
    dtype = layout.compute_dtype
    # Sixteen bits are sixteen bits: a device without one of the two types runs the model in the other.
    twin = {"bf16": "fp16", "fp16": "bf16"}.get(dtype)
    if dtype not in device.peak_flop_s and twin in device.peak_flop_s:
        dtype = str(twin)
    if dtype not in device.peak_flop_s:
        known = ", ".join(device.peak_flop_s)
        raise AtlasError(f"{device.name} has no peak for activations of type {dtype}; give one of {known}")
    link = device.link_byte_s or device.host_link_byte_s
    if deployment.devices > 1 and link is None:
        raise AtlasError(
            f"{device.name} has no link to another device; give tensor_parallel and pipeline_parallel of 1"
        )
    walls = _walls(device.peak_flop_s[dtype], device.bandwidth_byte_s, deployment)
    few = deployment.runtime.few_compute if deployment.runtime else None
    few_flop_s = device.peak_flop_s[dtype] * few if few else math.inf
    return Machine(walls, link or math.inf, device.host_link_byte_s or math.inf, few_flop_s), dtype


def _walls(peak_flop_s: float, peak_byte_s: float, deployment: Deployment) -> dict[str, Walls]:
    """The walls of each kind of operator: by the runtime's laws, else alike by the preset."""
    runtime, efficiency = deployment.runtime, deployment.efficiency
    if runtime is None:
        alike = (peak_flop_s * efficiency.compute, peak_byte_s * efficiency.bandwidth, efficiency.kernel_floor_s)
        return {**dict.fromkeys(LAWS, alike), "link": (*alike[:2], 0.0)}
    laws = {name: runtime.law(name) for name in LAWS}
    walls = {name: (peak_flop_s * law.compute, peak_byte_s * law.bandwidth, law.start_s) for name, law in laws.items()}
    return {**walls, "link": (*walls["link"][:2], runtime.link_latency_s)}
