"""What an estimate takes for granted, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lvlm_atlas.roofline.deployment import BITS, Deployment, Efficiency
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.model import Llm
from lvlm_atlas.roofline.runtime import Host, Runtime
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.units import seconds, share
from lvlm_atlas.roofline.workload import Workload


def assumptions(
    lay: Layout, device: Device, workload: Workload, deployment: Deployment, dtype: str, stack: Sequence[Applied]
) -> tuple[str, ...]:
    """What the numbers take for granted, one sentence each."""
    llm, efficiency, runtime, host = lay.model.llm, deployment.efficiency, deployment.runtime, deployment.host
    said = [
        *(_of_runtime(runtime, host, device, dtype) if runtime else (_of_efficiency(efficiency, device, dtype),)),
        f"Weights {_bits(lay)}, activations {lay.activation_byte * 8:g}, cache {lay.kv_byte * 8:g}; "
        f"batch {workload.batch}; {_devices(deployment)}.",
        "Prefill attention writes its scores to memory and computes the whole square."
        if lay.materialised
        else "Prefill attention is fused: no score matrix in memory, nothing computed above the causal mask.",
        "Text tokens are those given: markers around images count as text. The output matrix runs for "
        + ("all positions of the first prompt." if lay.logits_of_all else "the last position only."),
        "Vision tokens attend causally like text."
        + ("" if llm.context else " Whether the model's context holds them all is not checked: its record has none."),
        "A decoding step costs what it costs at the mean length of the cache; stages follow one another, without "
        "queue.",
    ]
    if lay.weights.of_all:
        said.append(
            f"All weights are {lay.weights}, encoder, embeddings and norms among them, without scales: a bound. "
            "Released checkpoints keep most of these in 16 bits; `--weight-dtype awq` or `llm=fp8` counts that."
        )
    said.append(
        f"Activations are those of a pass over {deployment.pass_tokens:,} tokens, times those of whole prompts."
        if deployment.pass_tokens
        else "Activations are those of one pass over all prompts of the batch."
    )
    if rates := [
        f"{what} at {1e-6 / pixel_s:.3g} megapixels a second"
        for what, pixel_s in (("images", host.image_pixel_s), ("all frames of video files", host.video_pixel_s))
        if pixel_s
    ]:
        said.append(f"Before the encoder the host decodes {' and '.join(rates)}, one after the other.")
    if lay.encoder_layers > lay.model.encoder.layers_needed:
        said.append(
            f"The encoder runs all {lay.encoder_layers} layers, as transformers does; the features used come from "
            f"layer {lay.model.encoder.layers_needed}."
        )
    said += _of_llm(llm)
    if lay.shards > 1 and lay.encoder_shards == 1:
        said.append(
            f"{lay.model.encoder.heads} encoder heads cannot be split by {lay.shards}: each device runs it whole."
        )
    if BITS.get(lay.compute_dtype, 16) == 16 and dtype != lay.compute_dtype:
        said.append(f"{device.name} has no {lay.compute_dtype}; {dtype} runs in its place.")
    if (faster := f"{dtype.replace('bf16', 'fp16')}-acc16") in device.peak_flop_s:
        said.append(
            f"Products are summed in FP32; software that sums in FP16 reaches up to "
            f"{device.peak_flop_s[faster] / 1e12:g} TFLOP/s (--activation-dtype {faster}) and may take less time."
        )
    if lay.kv_traffic != 1:
        said.append(f"Each cached byte moves {lay.kv_traffic:.3g} times when a step reads it.")
    if llm.window and any(each.cache_bits for each in stack):
        said.append(
            f"The {len(llm.local_layers)} layers that look back {llm.window:,} tokens are quantised like the others; "
            "entries kept exact count within the window; software that leaves such layers whole caches more."
        )
    said.append(_memory(device, deployment.memory_share))
    said.append("Energy is time at the thermal design power: an upper bound.")
    return (*said, *_of_effects(stack), *(text for each in stack for text in each.assumptions))


def _of_llm(llm: Llm) -> Iterator[str]:
    """What layers of the language model that differ from others take for granted."""
    if llm.skipped_layers:
        yield f"Without an image, the {llm.skipped_layers} layers of cross-attention are skipped, not unloaded."
    if llm.experts:
        yield "Tokens choose experts uniformly and independently, which sets how many are read."
    if llm.linear:
        yield (
            "Layers of linear attention take three multiply-adds for each number of their state and token; each step "
            "reads and writes the state."
        )
    if llm.borrowing_layers:
        yield (
            f"The last {llm.borrowing_layers} layers keep no cache: they read that of an earlier layer, which is taken "
            "to hold as many entries as theirs would, and all tokens pass through them."
        )
    if llm.latent:
        yield "The cache holds latents; decoding absorbs their up-projection into queries and outputs."


def _bits(lay: Layout) -> str:
    """How many bits a weight takes, part by part where they differ."""
    types = lay.weights.types
    if len(set(types.values())) == 1:
        return f"{types['llm'].bits:g} bits"
    narrow = {part: each for part, each in types.items() if each != types["other"]}
    return f"{lay.weights} ({', '.join(f'{part} {each.bits:.3g}' for part, each in narrow.items())} bits with scales)"


def _of_efficiency(efficiency: Efficiency, device: Device, dtype: str) -> str:
    return (
        f"Efficiency `{efficiency.name}`: {share(efficiency.compute)} of {_peaks(device, dtype)[0]}, "
        f"{share(efficiency.bandwidth)} of {_peaks(device, dtype)[1]}, {efficiency.kernel_floor_s * 1e6:g} µs a kernel."
    )


def _of_runtime(runtime: Runtime, host: Host, device: Device, dtype: str) -> Iterator[str]:
    """What the runtime's record takes for granted."""
    law = runtime.law("linear")
    flop_s, byte_s = _peaks(device, dtype)
    yield (
        f"Runtime `{runtime.id}` ({runtime.versions}): products reach {share(law.compute)} of {flop_s} and "
        f"{share(law.bandwidth)} of {byte_s}{f', {law.start_s * 1e6:.3g} µs a kernel' if law.start_s else ''}."
    )
    yield f"Its times: {runtime.fitted}."
    costs = {
        "a request": host.request_s, "an image": host.image_s, "a megapixel": host.megapixel_s, "a pass": host.step_s,
        "a layer": host.layer_s, "a layer more where a prompt is read": host.prompt_layer_s,
        "an encoder layer": host.encoder_layer_s,
    }  # fmt: skip
    if named := [f"{seconds(cost)} {name}" for name, cost in costs.items() if cost]:
        hidden = "; kernels are started while the device works" if host.hides and host.layer_s else ""
        yield f"The host takes {', '.join(named)}{hidden}."
    if host.chunk_token:
        yield f"Prompts are read {host.chunk_token:,} tokens at a time."


def _peaks(device: Device, dtype: str) -> tuple[str, str]:
    """The peaks of a device, in words."""
    flop_s = f"{device.peak_flop_s[dtype] / 1e12:g} TFLOP/s (dense {dtype})"
    return flop_s, f"{device.bandwidth_byte_s / 1e9:g} GB/s"


def _memory(device: Device, taken: float) -> str:
    """Whose figure the capacity is, and how much of it is taken."""
    part = f" Software takes {share(taken)} of it." if taken < 1 else ""
    if not device.memory_source:
        return (
            f"Memory is the vendor's {device.memory_byte / 1e9:g} GB; what software finds is not in the record.{part}"
        )
    return f"Memory is what software finds, {device.memory_byte / 2**30:.2f} GiB ({device.memory_source}).{part}"


def _devices(deployment: Deployment) -> str:
    if deployment.devices == 1:
        return "one device"
    layers = f", {deployment.pipeline_parallel} groups of layers" if deployment.pipeline_parallel > 1 else ""
    return f"{deployment.devices} devices, {deployment.tensor_parallel} to a layer{layers}"


_OF_QUANTITY: Mapping[str, str] = {
    "pixels": "Frames of each size are resized on their own, to sides of whole tokens, or of whole pixels where the "
    "model cuts tiles.",
    "encoder.flop": "Where the encoder's FLOPs are replaced, its bytes and kernels stay those of the model.",
    "adapter.flop": "Where the adapter's FLOPs are replaced, its bytes and kernels stay those of the model.",
    "text-tokens": "Text tokens are dropped from the first prompt; further questions are read whole.",
    "llm.vision-queries": "Vision tokens come before the text, and those that are no queries lie evenly among them.",
    "llm.vision-mlp": "Tokens that go round an MLP spare its norm and its residual sum too.",
    "llm.weights": "All matrices of the LLM lose the same share of weights, the output matrix among them, and kernels "
    "gain in full; what is added and moved per token stays.",
    "kv.layers": "Layers without keys and values of their own project none, and read those of another layer as their "
    "own.",
    "kv.state": "A layer with a constant state takes a multiply-add for each of its numbers per key and per query, "
    "keeps it in numbers of the cache's type, and reads and writes it at each step.",
    "kv.resident": "Entries that are neither on the device nor fetched are not attended to.",
    "kv.read": "Entries that a step does not read cost it nothing; further questions read all.",
    "llm.depth": "A step skips layers evenly and makes no entries for them; all layers read prompts and questions.",
}
"""What the price of a change takes for granted, by what changes."""


def _of_effects(stack: Sequence[Applied]) -> Iterator[str]:
    """What the prices of a stack's effects take for granted, each sentence once."""
    changes = [change for each in stack for change in each.changes]
    quantities = {change.quantity for change in changes}
    yield from (text for quantity, text in _OF_QUANTITY.items() if quantity in quantities)
    if any(change.limit is not None for change in changes):
        yield (
            "Where a growing cache is bounded the oldest entries go first, so vision before text; a step reads what is "
            "left."
        )
    if any(bits.of != "all" for each in stack for bits in each.cache_bits):
        yield "Entries of each modality are grouped and kept exact on their own."
    overheads = [overhead for each in stack for overhead in each.overheads]
    if any(overhead.sequential_steps != 0 or overhead.host_syncs != 0 for overhead in overheads):
        yield "A step that must follow another takes at least the floor of a kernel, and so does a wait of the host."
