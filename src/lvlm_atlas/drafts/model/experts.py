"""Mixtures of experts as configurations of transformers describe them, and their parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lvlm_atlas.drafts.model.source import Source
from lvlm_atlas.fault import AtlasError

ROUTED = ("num_experts", "num_local_experts", "n_routed_experts")
"""Keys of the number of experts."""
DENSE = "first_k_dense_replace"
"""Key of the number of leading layers that are dense."""
STEP = "interleave_moe_layer_step"
"""Key of the distance of layers with experts, of Llama-4; its experts are as wide as `intermediate_size` says."""


def has(text: Source) -> bool:
    """Whether the MLP of some layers is a mixture."""
    return text.has(*ROUTED) and text.data.get("enable_moe_block", True) is not False


def dense_width(text: Source) -> Any:
    """Width of the MLP of a layer that is dense; of an expert where no layer is."""
    if "intermediate_size_mlp" in text or text.of == "Llama4TextConfig":
        return text.number("intermediate_size_mlp")
    if has(text) and not text.has("intermediate_size"):
        return text.number("moe_intermediate_size")
    return text.number("intermediate_size")


def fields(text: Source) -> dict[str, Any]:
    """What a record says of the mixture; empty where there is none.

    Raises:
        AtlasError: layers are dense in an order that records cannot say.
    """
    if not has(text):
        return {}
    if text.data.get("mlp_only_layers") or text.data.get("decoder_sparse_step", 1) != 1:
        raise AtlasError(
            f"{text.file}: {text.place}mlp_only_layers or decoder_sparse_step leaves some layers dense, "
            "which records cannot say; write this one by hand"
        )
    llama4 = text.of == "Llama4TextConfig"
    width = text.number("intermediate_size" if llama4 else "moe_intermediate_size")
    made = {
        "routed": text.number(*ROUTED),
        "top_k": text.number("num_experts_per_tok", "top_k_experts"),
        "shared": 1 if llama4 else _shared(text, width),
        "intermediate": width,
        "dense_layers": text.number(DENSE, least=0) if text.has(DENSE) else 0,
    }  # fmt: skip
    if llama4:
        made["step"] = text.number(STEP)
    return {"experts": made}


def _shared(text: Source, width: float) -> Any:
    """Experts that every token uses, each as wide as the others.

    Raises:
        AtlasError: what they share is no whole number of experts wide.
    """
    if text.of == "Gemma4TextConfig":  # a dense MLP runs beside the experts
        return _whole(text, "intermediate_size", width)
    if text.has("n_shared_experts"):
        return text.number("n_shared_experts", least=0)
    if not text.has("shared_expert_intermediate_size"):
        return 0
    return _whole(text, "shared_expert_intermediate_size", width)


def _whole(text: Source, key: str, width: float) -> Any:
    """How many experts an MLP of the width under a key is worth."""
    wide = text.number(key)
    if not math.isnan(width) and wide % width:
        raise AtlasError(
            f"{text.file}: {text.place}{key} is {wide}, which is no multiple of {width}; write this record by hand"
        )
    return wide // width


def parameters(fields: Mapping[str, Any], *, active: bool) -> float:
    """Parameters of the mixtures of all layers, without the dense MLP in whose place they stand.

    Args:
        fields: the language model's part of a record.
        active: whether to count only the experts that one token uses.
    """
    experts, hidden = fields["experts"], fields["hidden"]
    step = experts.get("step", 1)
    layers = fields["layers"] // step - experts["dense_layers"] // step
    chosen = (experts["top_k"] if active else experts["routed"]) + experts["shared"]
    mixture = 3 * hidden * experts["intermediate"] * chosen + hidden * experts["routed"]
    # Behind gated attention, what all tokens share has a gate too: Qwen3.5.
    mixture += hidden * bool(fields.get("output_gate") and experts["shared"])
    count: float = layers * (mixture - 3 * hidden * fields["intermediate"])
    return count
