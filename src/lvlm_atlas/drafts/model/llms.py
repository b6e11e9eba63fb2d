"""Language models as configurations of transformers describe them, with their parameters counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lvlm_atlas.drafts.model import experts as mixture
from lvlm_atlas.drafts.model import hybrid
from lvlm_atlas.drafts.model.source import Source
from lvlm_atlas.fault import AtlasError, suggestion


@dataclass(frozen=True)
class Kind:
    """What code, not configuration, says of a kind of language model."""

    of: str
    """The class of its configuration, which has the defaults."""
    bias_key: str | None = "attention_bias"
    """Key that says whether queries, keys and values have biases; None: the code decides."""
    bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    """Norms of a layer."""
    output_gate: bool = False
    """Whether queries come with a gate of the attention's output."""
    context: bool = False
    """Whether files leave the length of prompt and answer to the class; else it is left out."""
    tied: bool = False
    """Whether embeddings are tied where neither file nor class says so."""


KINDS: Mapping[str, Kind] = {
    "llama": Kind("LlamaConfig"),
    "mistral": Kind("MistralConfig", bias_key=None),
    "internlm2": Kind("InternLM2Config", bias_key="bias"),
    "qwen2": Kind("Qwen2Config", bias_key=None, bias=True),
    "qwen2_vl_text": Kind("Qwen2VLTextConfig", bias_key=None, bias=True),
    "qwen2_5_vl_text": Kind("Qwen2_5_VLTextConfig", bias_key=None, bias=True),
    "qwen3": Kind("Qwen3Config", qk_norm=True),
    "qwen3_moe": Kind("Qwen3MoeConfig", qk_norm=True),
    "qwen3_vl_text": Kind("Qwen3VLTextConfig", qk_norm=True),
    "qwen3_vl_moe_text": Kind("Qwen3VLMoeTextConfig", qk_norm=True),
    "qwen3_5_text": Kind("Qwen3_5TextConfig", qk_norm=True, output_gate=True),
    "qwen3_5_moe_text": Kind("Qwen3_5MoeTextConfig", qk_norm=True, output_gate=True),
    "qwen3_omni_moe_text": Kind("Qwen3OmniMoeTextConfig", qk_norm=True),
    "glm4v_text": Kind("Glm4vTextConfig", bias_key=None, bias=True, norms=4),
    "glm4v_moe_text": Kind("Glm4vMoeTextConfig"),
    "llama4_text": Kind("Llama4TextConfig"),
    "deepseek_v3": Kind("DeepseekV3Config"),
    "deepseek_vl_v2_text": Kind("DeepseekVLV2TextConfig"),
    "gemma": Kind("GemmaConfig", tied=True),
    "gemma2": Kind("Gemma2Config", norms=4, tied=True),
    "gemma3_text": Kind("Gemma3TextConfig", qk_norm=True, norms=4, context=True),
    "gemma4_text": Kind("Gemma4TextConfig", qk_norm=True, norms=4, tied=True),
    "molmo": Kind("MolmoConfig", bias_key="qkv_bias"),
    "molmo2_text": Kind("Molmo2TextConfig", qk_norm=True, context=True),
    "phi4_multimodal": Kind("Phi4MultimodalConfig", bias_key=None, context=True),
    "mllama_text_model": Kind("MllamaTextConfig", bias_key=None),
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
    text = text.read_by(known.of)
    hidden, heads = text.number("hidden_size"), text.number("num_attention_heads")
    kv_heads, width = text.number("num_key_value_heads"), text.number("head_dim")
    fields: dict[str, Any] = {
        "name": text.text("_name_or_path"),
        "layers": text.number("num_hidden_layers"),
        "hidden": hidden,
        "intermediate": mixture.dense_width(text),
        "heads": heads,
        "kv_heads": heads if math.isnan(kv_heads) else kv_heads,
        "head_dim": hidden // heads if math.isnan(width) else width,
        "vocab": text.number("vocab_size"),
        "tied_embeddings": _tied(text, top, known),
        "qkv_bias": text.truth(known.bias_key, otherwise=known.bias) if known.bias_key else known.bias,
        "qk_norm": known.qk_norm,
    }
    if known.output_gate:
        fields["output_gate"] = True
    context = text.number("max_position_embeddings") if known.context or "max_position_embeddings" in text else math.nan
    if not math.isnan(context):
        fields["context"] = context
    else:
        text.said.append(f"{text.place}max_position_embeddings is not in {text.file}: llm.context is left out")
    fields |= mixture.fields(text) | hybrid.fields(text, fields["layers"])
    return fields, parameters(fields, known.norms)


def _tied(text: Source, top: Source, known: Kind) -> bool:
    """Whether input and output matrix are one. Where the two places differ, the text configuration's own holds."""
    both = [each for each in (text, top) if "tie_word_embeddings" in each]
    if len({bool(each.data["tie_word_embeddings"]) for each in both}) > 1:
        text.said.append(f"tie_word_embeddings at the top is another than in {text.place[:-1]}, which is taken")
    return (both[0] if both else text).truth("tie_word_embeddings", otherwise=known.tied)


def parameters(fields: Mapping[str, Any], norms: int, *, active: bool = False) -> float:
    """Weights, biases, norms and embeddings; with `active`, of the experts only those that one token uses."""
    hidden, layers = fields["hidden"], fields["layers"]
    linear = fields.get("linear_attention")
    full = len(linear["full_attention_layers"] or ()) if linear else layers
    of_layer = attention(fields)
    total: float = full * of_layer + hybrid.wider(fields, of_layer)
    total += layers * (norms * hidden + 3 * hidden * fields["intermediate"])
    if linear:
        total += (layers - full) * hybrid.parameters(linear, hidden)
    if "experts" in fields:
        total += mixture.parameters(fields, active=active)
    total += hybrid.beside(fields)
    embeddings = fields["vocab"] * hidden * (1 if fields["tied_embeddings"] else 2)
    total += hidden + embeddings
    return total


def attention(fields: Mapping[str, Any]) -> float:
    """Parameters of the attention of a layer, norms of queries and keys included."""
    if "mla" in fields:
        return latent(fields)
    hidden, wide = fields["hidden"], fields["heads"] * fields["head_dim"]
    narrow = fields["kv_heads"] * fields["head_dim"]
    gated = 2 if fields.get("output_gate") else 1
    count: float = hidden * ((1 + gated) * wide + 2 * narrow)
    count += (gated * wide + 2 * narrow) * fields["qkv_bias"] + 2 * fields["head_dim"] * fields["qk_norm"]
    return count


def latent(fields: Mapping[str, Any]) -> float:
    """Parameters of multi-head latent attention, norms of the latents included."""
    hidden, heads, mla = fields["hidden"], fields["heads"], fields["mla"]
    rank, key = mla["kv_lora_rank"], mla["nope_dim"] + mla["rope_dim"]
    through = mla.get("q_lora_rank")
    query = through * (hidden + 1 + heads * key) if through else hidden * heads * key
    cached = hidden * (rank + mla["rope_dim"]) + rank + rank * heads * (mla["nope_dim"] + mla["v_dim"])
    count: float = query + cached + heads * mla["v_dim"] * hidden
    return count
