"""What an estimate takes for granted, in words."""

from __future__ import annotations

from collections.abc import Sequence

from lvlm_atlas.roofline.deployment import BITS, Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.workload import Workload


def assumptions(
    lay: Layout, device: Device, workload: Workload, deployment: Deployment, dtype: str, stack: Sequence[Applied]
) -> tuple[str, ...]:
    """What the numbers take for granted, one sentence each."""
    llm, efficiency = lay.model.llm, deployment.efficiency
    said = [
        f"Efficiency `{efficiency.name}`: {efficiency.compute:g} of {device.peak_flop_s[dtype] / 1e12:g} TFLOP/s "
        f"(dense {dtype}), {efficiency.bandwidth:g} of {device.bandwidth_byte_s / 1e9:g} GB/s, "
        f"{efficiency.kernel_floor_s * 1e6:g} µs a kernel.",
        f"Weights {lay.weight_byte * 8:g} bits, activations {lay.activation_byte * 8:g}, cache {lay.kv_byte * 8:g}; "
        f"batch {workload.batch}; {deployment.tensor_parallel} × {deployment.pipeline_parallel} devices.",
        "Prefill attention writes its scores to memory and computes the whole square."
        if lay.materialised
        else "Prefill attention is fused: no score matrix in memory, nothing computed above the causal mask.",
        "Text tokens are those given: markers around images count as text. The output matrix runs for the last "
        "position only.",
        "Vision tokens attend causally like text; whether the model's context holds them all is not checked.",
        "A decoding step costs what it costs at the mean length of the cache; stages follow one another, without "
        "queue.",
    ]
    if lay.encoder_layers > lay.model.encoder.layers_needed:
        said.append(
            f"The encoder runs all {lay.encoder_layers} layers, as transformers does; the features used come from "
            f"layer {lay.model.encoder.layers_needed}."
        )
    if llm.experts:
        said.append("Tokens choose experts uniformly and independently, which sets how many are read.")
    if llm.latent:
        said.append("The cache holds latents; decoding absorbs their up-projection into queries and outputs.")
    if lay.shards > 1 and lay.encoder_shards == 1:
        said.append(
            f"{lay.model.encoder.heads} encoder heads cannot be split by {lay.shards}: each device runs it whole."
        )
    if BITS.get(lay.compute_dtype, 16) == 16 and dtype != lay.compute_dtype:
        said.append(f"{device.name} has no {lay.compute_dtype}; {dtype} runs in its place.")
    if efficiency.kv_traffic != 1:
        said.append(f"Each cached byte moves {efficiency.kv_traffic:.3g} times when a step reads it.")
    said.append("Energy is time at the thermal design power: an upper bound.")
    return (*said, *(text for each in stack for text in each.assumptions))
