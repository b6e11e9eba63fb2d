"""Language models as configurations of transformers describe them, with their parameters counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lvlm_atlas.drafts.model.source import UNKNOWN, Source
from lvlm_atlas.fault import AtlasError, suggestion


@dataclass(frozen=True)
class Kind:
    """What code, not configuration, says of a kind of language model, and the defaults of its class."""

    of: str
    """The class of its configuration."""
    vocab: float = UNKNOWN
    hidden: float = UNKNOWN
    intermediate: float = UNKNOWN
    layers: float = UNKNOWN
    heads: float = UNKNOWN
    kv_heads: float | None = None
    """Default of key-value heads; None: as many as query heads."""
    head_dim: float | None = None
    """Default width of a head; None: hidden width over heads."""
    tied: bool = False
    bias_key: str | None = "attention_bias"
    """Key that says whether queries, keys and values have biases; None: the code decides."""
    bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    """Norms of a layer."""
    context: float | None = None
    """Default length of prompt and answer, of a kind whose released files leave it out; None: left out."""


_LLAMA = Kind("LlamaConfig", 32000, 4096, 11008, 32, 32)
_QWEN2 = Kind("Qwen2Config", bias_key=None, bias=True)
_QWEN3 = Kind("Qwen3Config", head_dim=128, qk_norm=True)
KINDS: Mapping[str, Kind] = {
    "llama": _LLAMA,
    "mistral": Kind("MistralConfig", 32000, 4096, 14336, 32, 32, 8, bias_key=None),
    "internlm2": Kind("InternLM2Config", bias_key="bias"),
    "qwen2": _QWEN2,
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "qwen3_vl_moe_text": _QWEN3,
    "gemma3_text": Kind("Gemma3TextConfig", 262208, head_dim=256, tied=True, qk_norm=True, norms=4, context=131072),
    "mllama_text_model": Kind("MllamaTextConfig", 128256, 4096, 14336, 40, 32, 8, bias_key=None),
}
"""Kinds by the `model_type` of the text configuration."""


def llm(text: Source, top: Source, kind: str | None = None) -> tuple[dict[str, Any], float]:
    """The language model's part of a record, and its parameters.

    Args:
        text: its configuration.
        top: the whole one, which may say whether embeddings are tied.
        kind: its `model_type`, where the file leaves it out.

    Raises:
        AtlasError: its kind is none that is known, or a value is none.
    """
    name = text.text("model_type") or kind or ""
    name = name if name in KINDS else kind or name
    if name not in KINDS:
        hint = suggestion(name, KINDS)
        raise AtlasError(f"{text.file}: {text.place}model_type is {name!r}, which is not known; {hint}")
    known = KINDS[name]

    def number(key: str, default: float | None) -> Any:
        return text.number(key, default=default, of=known.of)

    hidden, heads = number("hidden_size", known.hidden), number("num_attention_heads", known.heads)
    own = known.kv_heads if known.kv_heads is not None else heads
    width = known.head_dim if known.head_dim is not None else hidden // heads
    owner = text if "tie_word_embeddings" in text else top
    if len({bool(each.data["tie_word_embeddings"]) for each in (text, top) if "tie_word_embeddings" in each}) > 1:
        text.said.append(f"tie_word_embeddings at the top is another than in {text.place[:-1]}, which is taken")
    fields: dict[str, Any] = {
        "name": text.text("_name_or_path"),
        "layers": number("num_hidden_layers", known.layers),
        "hidden": hidden,
        "intermediate": number("intermediate_size", known.intermediate),
        "heads": heads,
        "kv_heads": number("num_key_value_heads", own),
        "head_dim": text.number("head_dim") if "head_dim" in text else width,
        "vocab": number("vocab_size", known.vocab),
        "tied_embeddings": owner.truth("tie_word_embeddings", default=known.tied, of=known.of),
        "qkv_bias": bool(text.data.get(known.bias_key, known.bias)) if known.bias_key else known.bias,
        "qk_norm": known.qk_norm,
    }
    context = number("max_position_embeddings", known.context)
    if not math.isnan(context):
        fields["context"] = context
    else:
        text.said.append(f"{text.place}max_position_embeddings is not in {text.file}: llm.context is left out")
    if "num_experts" in text or "num_local_experts" in text:
        fields["experts"] = _experts(text, fields["layers"])
    return fields, parameters(fields, known.norms)


def _experts(text: Source, layers: float) -> dict[str, Any]:
    if text.data.get("mlp_only_layers") or text.data.get("decoder_sparse_step", 1) != 1:
        raise AtlasError(
            f"{text.file}: {text.place}mlp_only_layers or decoder_sparse_step leaves some of {layers} layers dense, "
            "which records cannot say; write this one by hand"
        )
    return {
        "routed": text.number("num_experts", "num_local_experts"),
        "top_k": text.number("num_experts_per_tok"),
        "shared": 0,
        "intermediate": text.number("moe_intermediate_size"),
        "dense_layers": 0,
    }


def parameters(fields: Mapping[str, Any], norms: int, *, active: bool = False) -> float:
    """Weights, biases, norms and embeddings; with `active`, of the experts only those that one token uses."""
    hidden, wide = fields["hidden"], fields["heads"] * fields["head_dim"]
    narrow = fields["kv_heads"] * fields["head_dim"]
    layer = hidden * (2 * wide + 2 * narrow) + norms * hidden
    layer += (wide + 2 * narrow) * fields["qkv_bias"] + 2 * fields["head_dim"] * fields["qk_norm"]
    experts = fields.get("experts")
    if experts:
        chosen = experts["top_k"] if active else experts["routed"]
        layer += hidden * experts["routed"] + 3 * hidden * experts["intermediate"] * chosen
    else:
        layer += 3 * hidden * fields["intermediate"]
    embeddings = fields["vocab"] * hidden * (1 if fields["tied_embeddings"] else 2)
    total: float = fields["layers"] * layer + hidden + embeddings
    return total
