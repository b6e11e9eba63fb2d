"""Layers that attend otherwise than all others: linear ones, those with a window, and latent attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvlm_atlas.drafts.model.source import Source

WINDOWS = ("sliding_attention", "chunked_attention")
"""Kinds of layers in `layer_types` that look back only so far."""


def fields(text: Source, layers: float) -> dict[str, Any]:
    """What a record says of such layers; empty where all attend to everything and keep keys and values."""
    made: dict[str, Any] = {}
    if text.has("kv_lora_rank"):
        made["mla"] = {
            "kv_lora_rank": text.number("kv_lora_rank"), "rope_dim": text.number("qk_rope_head_dim"),
            "nope_dim": text.number("qk_nope_head_dim"), "v_dim": text.number("v_head_dim"),
        }  # fmt: skip
        if "q_lora_rank" in text or "q_lora_rank" not in text.data:
            made["mla"]["q_lora_rank"] = text.number("q_lora_rank")
    if text.has("linear_num_value_heads"):
        made["linear_attention"] = {
            "key_heads": text.number("linear_num_key_heads"), "value_heads": text.number("linear_num_value_heads"),
            "key_dim": text.number("linear_key_head_dim"), "value_dim": text.number("linear_value_head_dim"),
            "conv": text.number("linear_conv_kernel_dim"),
            "full_attention_layers": _full(text, layers, text.data.get("full_attention_interval", 4)),
        }  # fmt: skip
    if text.of == "Gemma4TextConfig":
        made |= window(text, layers, 6)
        shared = text.truth("attention_k_eq_v")
        heads = "num_global_key_value_heads"
        made["global_attention"] = {
            "kv_heads": text.number(heads) if shared and heads in text else text.number("num_key_value_heads"),
            "head_dim": text.number("global_head_dim"), "shared_projection": shared,
        }  # fmt: skip
    if text.number("num_kv_shared_layers", least=0) > 0:
        made["shared_cache"] = {"layers": text.number("num_kv_shared_layers")}
        if text.truth("use_double_wide_mlp"):
            made["shared_cache"]["intermediate"] = 2 * text.number("intermediate_size")
    if text.number("hidden_size_per_layer_input", least=0) > 0:
        made["layer_inputs"] = {
            "width": text.number("hidden_size_per_layer_input"), "vocab": text.number("vocab_size_per_layer_input"),
        }  # fmt: skip
    return made


def window(text: Source, layers: float, every: Any, key: str = "sliding_window") -> dict[str, Any]:
    """The window of local layers, and the layers that have none: those listed, else the last of every so many."""
    return {"sliding_window": {"tokens": text.number(key), "global_layers": _full(text, layers, every)}}


def wider(fields: Mapping[str, Any], local: float) -> float:
    """Parameters that layers attending to everything have beyond the `local` of others, in their attention."""
    wide = fields.get("global_attention")
    if not wide:
        return 0.0
    hidden, width = fields["hidden"], wide["head_dim"]
    keys = (1 if wide["shared_projection"] else 2) * wide["kv_heads"]
    each = hidden * (2 * fields["heads"] + keys) * width + 2 * width * fields["qk_norm"]
    count: float = len(fields["sliding_window"]["global_layers"] or ()) * (each - local)
    return count


def beside(fields: Mapping[str, Any]) -> float:
    """Parameters that inputs of every layer add, and layers without a cache of their own leave out."""
    hidden, layers, given, shared = (
        fields["hidden"],
        fields["layers"],
        *map(fields.get, ("layer_inputs", "shared_cache")),
    )
    count = 0.0
    if given:
        width = given["width"]
        count += layers * width * (given["vocab"] + 3 * hidden) + layers * hidden + width
    if shared:
        for layer in range(layers - shared["layers"], layers):
            heads = fields if layer not in fields["sliding_window"]["global_layers"] else fields["global_attention"]
            keys = 1 if heads.get("shared_projection") else 2
            count -= (keys * heads["kv_heads"] * hidden + fields["qk_norm"]) * heads["head_dim"]
        wide = shared.get("intermediate", fields["intermediate"])
        count += shared["layers"] * 3 * hidden * (wide - fields["intermediate"])
    return count


def _full(text: Source, layers: float, every: Any) -> list[int] | None:
    """The layers that attend to everything; None where the file and its class leave it open."""
    kinds = text.data.get("layer_types")
    if isinstance(kinds, list):
        return [index for index, kind in enumerate(kinds) if kind == "full_attention"]
    if not isinstance(layers, int) or not isinstance(every, int) or every < 1:
        return None
    text.said.append(f"{text.place}layer_types is not in {text.file}: every {every}th layer attends to everything")
    return list(range(every - 1, layers, every))


def parameters(linear: Mapping[str, Any], hidden: float) -> float:
    """Parameters of a layer of gated delta attention: projections, convolution, decay and its norm."""
    value = linear["value_heads"] * linear["value_dim"]
    channels = 2 * linear["key_heads"] * linear["key_dim"] + value
    count: float = hidden * (channels + 2 * value + 2 * linear["value_heads"]) + channels * linear["conv"]
    count += 2 * linear["value_heads"] + linear["value_dim"]
    return count
