"""The fields of an estimate as JSON: their names, units and meanings. `contract` fills exactly these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lvlm_atlas.roofline.operator import Bound

FORMAT = "lvlm-atlas-estimate/1"
"""Value of `format`. The number goes up when a field changes its meaning or goes; new ones may come without."""

Kind = Literal["text", "number", "integer", "truth", "list"]

BOUNDS = get_args(Bound)
"""What may set a time."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field."""

    name: str
    """Its path: steps joined by dots; `*` stands for each stage, `[]` for each item of a list."""
    kind: Kind
    """What it holds; of a list, what is in it stands in the meaning."""
    unit: str
    """Its unit in SI base units; empty where there is none."""
    meaning: str
    """What it says."""
    optional: bool = False
    """Whether it may be null."""


FIELDS: Sequence[Field] = (
    Field("format", "text", "", f"Name and version of this contract: `{FORMAT}`."),
    Field("model", "text", "", "Id of the model."),
    Field("hardware", "text", "", "Id of the device."),
    Field("workload", "text", "", "Id of the workload, with what was changed of it."),
    Field("stack", "list", "", "Techniques with their settings, in pipeline order; texts."),
    Field("batch", "integer", "request", "Requests processed together."),
    Field("tokens.encoder", "integer", "token", "Tokens that enter the encoder, class tokens included; one request."),
    Field("tokens.vision", "integer", "token", "Visual positions that enter the sequence of the LLM."),
    Field("tokens.cross_attention", "integer", "token", "Vision tokens that cross-attention layers read instead."),
    Field("tokens.text", "integer", "token", "Text tokens of the prompt, of each turn."),
    Field("tokens.output", "integer", "token", "Tokens generated, at each turn."),
    Field("tokens.encoder_layers", "list", "token", "Tokens that enter each encoder layer; numbers."),
    Field("tokens.llm_layers", "list", "token", "Tokens of the prompt in each LLM layer; numbers."),
    Field("tokens.llm_vision_layers", "list", "token", "Vision tokens alive in each LLM layer; numbers."),
    Field("kv_byte", "number", "byte", "Cache after prefill, of the batch and all devices."),
    Field("kv_vision_byte", "number", "byte", "The part of `kv_byte` that holds vision tokens."),
    Field("kv_text_byte", "number", "byte", "The rest of `kv_byte`."),
    Field("kv_peak_byte", "number", "byte", "Cache at its largest, as far as it is on the devices."),
    Field("weight_byte", "number", "byte", "Weights of all parts, of all devices."),
    Field("weight_part_byte.encoder", "number", "byte", "Weights of the encoder."),
    Field("weight_part_byte.adapter", "number", "byte", "Weights of the adapter."),
    Field("weight_part_byte.llm", "number", "byte", "Matrices of the LLM's layers, scales of their groups included."),
    Field("weight_part_byte.embedding", "number", "byte", "The LLM's embeddings."),
    Field("weight_part_byte.head", "number", "byte", "The LLM's output matrix; 0 where it is that of the embeddings."),
    Field("weight_part_byte.other", "number", "byte", "The LLM's norms, biases and routers."),
    Field("activation_byte", "number", "byte", "Largest activations that live at a time, on one device."),
    Field("device_byte", "number", "byte", "What one device must hold, the reserve of the efficiency preset included."),
    Field("stages.*.time_s", "number", "s", "Time of the stage: `encoding`, `prefilling` or `decoding`."),
    Field("stages.*.flop", "number", "FLOP", "Floating-point operations, a multiply-add counts 2; all devices."),
    Field("stages.*.byte", "number", "byte", "Bytes moved to and from device memory; all devices."),
    Field("stages.*.intensity", "number", "FLOP/byte", "FLOPs per byte; null if nothing is moved.", optional=True),
    Field("stages.*.bound", "text", "", f"What sets most of its time: {', '.join(BOUNDS)}."),
    Field("stages.*.flop_per_s_device", "number", "FLOP/s", "Arithmetic that each device reaches."),
    Field("flop.encoder_linear", "number", "FLOP", "Linear layers of the encoder, over all passes on the prompt."),
    Field("flop.adapter_linear", "number", "FLOP", "Linear layers of the adapter."),
    Field("flop.llm_linear", "number", "FLOP", "Linear layers of the LLM in the first pass, output matrix included."),
    Field("flop.attention", "number", "FLOP", "Products of attention, of encoder, adapter and LLM together."),
    Field("flop.technique", "number", "FLOP", "What the techniques of the stack add."),
    Field("ttft_s", "number", "s", "Time to the first token."),
    Field("tpot_s", "number", "s", "Time per output token after the first."),
    Field("total_s", "number", "s", "Time of the batch from its images to the last token, all turns."),
    Field("tokens_per_s", "number", "token/s", "Tokens a second while decoding; null for one.", optional=True),
    Field("energy_j", "number", "J", "Energy at the thermal design power; null if not published.", optional=True),
    Field("energy_j_per_token", "number", "J/token", "The same for each token generated.", optional=True),
    Field("cost_usd", "number", "USD", "Cost of one request; null without a price.", optional=True),
    Field("visual_kv_share", "number", "", "Share of vision entries of the cache in the bytes that decoding moves."),
    Field("bottleneck", "text", "", "The stage that takes longest."),
    Field("ridge_flop_per_byte", "number", "FLOP/byte", "Intensity at which the device's two walls meet."),
    Field("fits", "truth", "", "Whether one device holds its part."),
    Field("fits_at_once", "integer", "request", "Most requests whose caches a device holds, each prefilled by itself."),
    Field("fits_tokens", "integer", "token", "Most tokens of such requests, answers included, that a device caches."),
    Field("largest_batch", "integer", "request", "Most requests that the devices process together; 0: not one."),
    Field("context_tokens", "integer", "token", "Longest sequence that the LLM holds: prompt, questions and answers."),
    Field("prompt_tokens", "integer", "token", "The longest prompt: that sequence without the last answer."),
    Field("model_context_tokens", "integer", "token", "What the model is released for; null: not in its record.", True),
    Field("prompt_fits", "truth", "", "Whether the model's context holds the prompt; null: not in its record.", True),
    Field("frames_read", "integer", "frame", "Frames read of all videos, before any technique."),
    Field("frames_asked", "integer", "frame", "Frames that the videos' rates come to, without a model's limits."),
    Field("image_sizes", "list", "", "Sizes of the request's images, such as 1280x720, those sized for it; texts."),
    Field("efficiency", "text", "", "Preset of how near kernels come to the peaks; null with a runtime.", True),
    Field("runtime", "text", "", "Id of the runtime whose kernels and host these are; null with a preset.", True),
    Field("residual", "number", "", "Median error of the runtime's times left out of its fit; null without.", True),
    Field("band.ttft_s", "list", "s", "Where half of the measured times are expected: two numbers, or null.", True),
    Field("band.tpot_s", "list", "s", "The same of `tpot_s`.", True),
    Field("band.total_s", "list", "s", "The same of `total_s`.", True),
    Field("assumptions", "list", "", "What was taken for granted; sentences."),
)  # fmt: skip
"""What every estimate has."""

OPERATOR_FIELDS: Sequence[Field] = (
    Field("operators[].stage", "text", "", "Stage in which it runs."),
    Field("operators[].name", "text", "", "What it is, such as `llm.query`; all layers alike together."),
    Field("operators[].kind", "text", "", "linear, attention, elementwise, link or technique."),
    Field("operators[].flop", "number", "FLOP", "Floating-point operations."),
    Field("operators[].byte", "number", "byte", "Bytes moved: the next three together."),
    Field("operators[].weight_byte", "number", "byte", "Weights read."),
    Field("operators[].activation_byte", "number", "byte", "Activations read and written."),
    Field("operators[].kv_byte", "number", "byte", "Cache read."),
    Field("operators[].link_byte", "number", "byte", "Bytes that one device sends to another."),
    Field("operators[].host_byte", "number", "byte", "Bytes fetched from the host."),
    Field("operators[].intensity", "number", "FLOP/byte", "FLOPs per byte; null if nothing is moved.", optional=True),
    Field("operators[].time_s", "number", "s", "How long it takes."),
    Field("operators[].bound", "text", "", "What sets that."),
)
"""What estimates have on request."""

COMMAND_FIELDS: Sequence[Field] = (
    Field("data", "text", "", "Digest of the data that it rests on, as `lvlm-atlas --version` prints it."),
    Field("error.message", "text", "", "What is wrong, what was got, and the repair; one line."),
    Field("error.exit_code", "integer", "", "What the command ends with: 2."),
)
"""What the command adds: which data, and an error instead of an estimate if the input is wrong, or beside one that does
not fit."""


def schema() -> dict[str, Any]:
    """The contract as a JSON schema, which allows further fields."""
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": FORMAT,
        "description": "Predictions. Units are SI base units; bytes and FLOPs are those of the batch and all devices.",
        **_object(),
    }
    for each in FIELDS:
        for stage in ("encoding", "prefilling", "decoding") if "*" in each.name else ("",):
            _place(root, each.name.replace("*", stage).split("."), each)
    item = _object()
    for each in OPERATOR_FIELDS:
        _place(item, [each.name.partition(".")[2]], each)
    root["properties"]["operators"] = {"type": "array", "items": item}
    return root


_TYPES = {"text": "string", "number": "number", "integer": "integer", "truth": "boolean", "list": "array"}


def _object() -> dict[str, Any]:
    return {"type": "object", "properties": {}, "required": []}


def _place(node: dict[str, Any], path: list[str], each: Field) -> None:
    head, *rest = path
    if head not in node["required"]:
        node["required"].append(head)
    if rest:
        _place(node["properties"].setdefault(head, _object()), rest, each)
        return
    kind = _TYPES[each.kind]
    unit = f" Unit: {each.unit}." if each.unit else ""
    node["properties"][head] = {
        "type": [kind, "null"] if each.optional else kind,
        "description": each.meaning.replace("`", "") + unit,
    }
