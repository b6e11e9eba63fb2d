"""Drafted parameter counts against models of transformers, built without memory from the same small configurations."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from lvlm_atlas.drafts.model import drafted

TEXT = {
    "hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100, "head_dim": 24, "pad_token_id": 1, "tie_word_embeddings": False,
}  # fmt: skip
VIT = {
    "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 14,
}  # fmt: skip
QWEN = {
    "depth": 3, "hidden_size": 64, "out_hidden_size": 96, "intermediate_size": 80, "num_heads": 4, "patch_size": 16,
}  # fmt: skip
DEEP = {**QWEN, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}

DEEPSEEK = {
    "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 20, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 10,
    "num_key_value_heads": 4,
}  # fmt: skip
GEMMA4 = {
    **TEXT, "num_hidden_layers": 6, "tie_word_embeddings": True, "sliding_window": 8, "global_head_dim": 48,
    "num_global_key_value_heads": 1, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
}  # fmt: skip
DELTA = {
    "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 12, "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}  # fmt: skip

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "llava": ({**VIT, "model_type": "clip_vision_model", "image_size": 56}, {**TEXT, "model_type": "llama"}, {}),
    "llava_next": (
        {**VIT, "model_type": "clip_vision_model", "image_size": 336}, {**TEXT, "model_type": "mistral"},
        {"image_grid_pinpoints": [[336, 672]]},
    ),
    "llava_onevision": (
        {**VIT, "model_type": "siglip_vision_model", "image_size": 56, "vision_use_head": False},
        {**TEXT, "model_type": "qwen2"}, {"image_grid_pinpoints": [[56, 56]]},
    ),
    "qwen2_vl": ({**QWEN, "embed_dim": 64, "hidden_size": 96, "mlp_ratio": 4}, TEXT, {}),
    "qwen2_5_vl": ({**QWEN, "window_size": 128, "fullatt_block_indexes": [1]}, TEXT, {}),
    "qwen3_vl": (DEEP, {**TEXT, "head_dim": 32}, {}),
    "qwen3_vl_moe": (DEEP, {**TEXT, **MOE, "head_dim": 32}, {}),
    "gemma3": (
        {**VIT, "model_type": "siglip_vision_model", "image_size": 224, "vision_use_head": False},
        {**TEXT, "num_hidden_layers": 6, "tie_word_embeddings": True, "sliding_window": 8}, {"mm_tokens_per_image": 16},
    ),
    "mllama": (
        {
            **VIT, "num_global_layers": 2, "attention_heads": 4, "image_size": 56, "max_num_tiles": 4,
            "intermediate_layers_indices": [0, 1], "vision_output_dim": 192,
        },
        {**TEXT, "cross_attention_layers": [1]}, {},
    ),
    "idefics3": ({**VIT, "image_size": 84}, {**TEXT, "model_type": "llama"}, {"scale_factor": 2}),
    "internvl": (
        {**VIT, "image_size": [56, 56], "patch_size": [14, 14], "attention_bias": True},
        {**TEXT, "model_type": "qwen2"}, {"tie_word_embeddings": False},
    ),
    "llava pixtral": (
        {**VIT, "model_type": "pixtral", "image_size": 56, "head_dim": 16}, {**TEXT, "model_type": "mistral"},
        {"vision_feature_layer": -1},
    ),
    "mistral3": (
        {**VIT, "model_type": "pixtral", "image_size": 56, "head_dim": 16}, {**TEXT, "model_type": "mistral"},
        {"tie_word_embeddings": False},
    ),
    "ovis2": (
        {**VIT, "image_size": 56, "vocab_size": 200, "hidden_stride": 2}, {**TEXT, "model_type": "qwen2"},
        {"hidden_size": 96, "vocab_size": 100, "tie_word_embeddings": False},
    ),
    "ovis2 with biases": (
        {**VIT, "image_size": 56, "vocab_size": 200, "qkv_bias": True, "mlp_bias": True},
        {**TEXT, "model_type": "qwen2", "tie_word_embeddings": True},
        {"hidden_size": 96, "vocab_size": 100, "tie_word_embeddings": True},
    ),
    "glm4v": ({**QWEN, "image_size": 64, "out_hidden_size": 96}, TEXT, {}),
    "glm4v_moe": (
        {**QWEN, "image_size": 64, "attention_bias": True}, {**TEXT, **DEEPSEEK, "num_hidden_layers": 4}, {},
    ),
    "qwen3_5": ({**QWEN, "num_position_embeddings": 64}, {**TEXT, **DELTA}, {"tie_word_embeddings": False}),
    "qwen3_5_moe": (
        {**QWEN, "num_position_embeddings": 64}, {**TEXT, **DELTA, **MOE, "shared_expert_intermediate_size": 96}, {},
    ),
    "llama4": (
        {
            **VIT, "image_size": 56, "intermediate_size": 256, "projector_input_dim": 72, "projector_output_dim": 72,
            "vision_output_dim": 72,
        },
        {
            **TEXT, "num_hidden_layers": 4, "num_local_experts": 4, "intermediate_size_mlp": 160,
            "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "moe_layers": [1, 3],
            "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
        },
        {},
    ),
    "paligemma": (
        {**VIT, "model_type": "siglip_vision_model", "image_size": 56, "vision_use_head": False},
        {**TEXT, "model_type": "gemma2", "tie_word_embeddings": True, "num_hidden_layers": 4},
        {"projection_dim": 96, "tie_word_embeddings": True},
    ),
    "gemma4": (
        {**VIT, "num_key_value_heads": 4, "head_dim": 16, "position_embedding_size": 32, "pooling_kernel_size": 3},
        {**GEMMA4, "enable_moe_block": False}, {"tie_word_embeddings": True, "audio_config": None},
    ),
    "gemma4 with experts": (
        {**VIT, "num_key_value_heads": 4, "head_dim": 16, "position_embedding_size": 32, "pooling_kernel_size": 3},
        {
            **GEMMA4, "enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 64,
        },
        {"tie_word_embeddings": True, "audio_config": None},
    ),
    "gemma4 with inputs of layers and shared caches": (
        {**VIT, "num_key_value_heads": 4, "head_dim": 16, "position_embedding_size": 32, "pooling_kernel_size": 3},
        {
            **GEMMA4, "attention_k_eq_v": False, "num_kv_shared_layers": 4, "use_double_wide_mlp": True,
            "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 60,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
        },
        {"tie_word_embeddings": True, "audio_config": None},
    ),
    "molmo2": (
        {**VIT, "num_key_value_heads": 4, "head_dim": 16, "image_size": [56, 56]},
        {**TEXT, "head_dim": 32, "additional_vocab_size": 8},
        {
            "adapter_config": {
                "vision_feature_layer": [-1, 0], "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
                "head_dim": 16, "intermediate_size": 80, "text_hidden_size": 96,
            },
        },
    ),
    "molmo2 with norms over all heads": (
        {**VIT, "num_key_value_heads": 4, "head_dim": 16, "image_size": [56, 56]},
        {**TEXT, "additional_vocab_size": 8, "qk_norm_type": "olmo"},
        {
            "adapter_config": {
                "vision_feature_layer": [2], "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
                "head_dim": 16, "intermediate_size": 80, "text_hidden_size": 96,
            },
        },
    ),
    "phi4_multimodal": ({**VIT, "image_size": 56, "crop_size": 56}, {}, {**TEXT, "bos_token_id": 2, "eos_token_id": 3}),
    "qwen3_omni_moe": (DEEP, {**TEXT, **MOE}, {}),
    "kimi_k25": (
        {**VIT, "pos_emb_height": 8, "pos_emb_width": 6, "merge_kernel_size": [2, 2]},
        {**TEXT, **DEEPSEEK, **LATENT, "model_type": "deepseek_v3", "num_hidden_layers": 4},
        {"projection_hidden_size": 64, "tie_word_embeddings": False},
    ),
}  # fmt: skip


THINKER = {"qwen3_omni_moe": "qwen3_omni_moe_thinker"}
"""Families of which a part sees, by the name of that part; what hears is not counted."""


@pytest.mark.parametrize("family", CASES)
def test_the_parameters_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    vision, text, more = CASES[family]
    family = family.partition(" ")[0]
    kind = THINKER.get(family, family)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        parts = {"vision_config": vision, **({"text_config": text} if text else {})}
        config = transformers.AutoConfig.for_model(kind, **parts, **more)
        of = type(config) in transformers.AutoModelForImageTextToText._model_mapping
        model = (transformers.AutoModelForImageTextToText if of else transformers.AutoModelForCausalLM).from_config(
            config
        )
    want = sum(parameter.numel() for name, parameter in model.named_parameters() if "audio" not in name)
    path = tmp_path / "config.json"
    written = {"vision_config": vision, "text_config": text, **more}
    path.write_text(json.dumps({"model_type": family, **({"thinker_config": written} if kind != family else written)}))
    assert drafted(path, None, "mine").record["params"]["total"] == want
