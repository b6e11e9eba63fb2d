"""What the classes of configurations take where a file is short, as data; tests hold them against transformers.

Files leave out what equals the default of the class that wrote them, so the defaults are part of what they say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "CLIPVisionConfig": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "patch_size": 32, "image_size": 224, "hidden_act": "quick_gelu",
    },
    "SiglipVisionConfig": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "patch_size": 16, "image_size": 224, "hidden_act": "gelu_pytorch_tanh",
    },
    "LlamaConfig": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "tie_word_embeddings": False, "attention_bias": False,
    },
    "MistralConfig": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    },
    "Qwen2Config": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False,
    },
    "Qwen2VLTextConfig": {
        "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8,
    },
    "Qwen2_5_VLTextConfig": {
        "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8,
    },
    "Qwen3Config": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "tie_word_embeddings": False,
        "attention_bias": False,
    },
    "Qwen3MoeConfig": {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
        "num_attention_heads": 32, "num_key_value_heads": 4, "tie_word_embeddings": False, "attention_bias": False,
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    },
    "Qwen3VLTextConfig": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "attention_bias": False,
    },
    "Qwen3VLMoeTextConfig": {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 16, "attention_bias": False, "num_experts": 60,
        "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
    },
    "Qwen3OmniMoeTextConfig": {
        "vocab_size": 3584, "hidden_size": 2048, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "attention_bias": False, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    },
    "Qwen3_5TextConfig": {
        "vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32,
        "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": False,
        "attention_bias": False, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    },
    "Qwen3_5MoeTextConfig": {
        "vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 256, "tie_word_embeddings": False, "attention_bias": False,
        "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    },
    "Glm4vTextConfig": {
        "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 2,
    },
    "Glm4vMoeTextConfig": {
        "vocab_size": 151424, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
        "num_attention_heads": 96, "num_key_value_heads": 8, "tie_word_embeddings": False, "attention_bias": True,
        "n_routed_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1408, "n_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
    "DeepseekV3Config": {
        "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
        "num_attention_heads": 128, "num_key_value_heads": 128, "tie_word_embeddings": False,
        "attention_bias": False, "n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
        "n_shared_experts": 1, "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536,
        "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    },
    "DeepseekVLV2TextConfig": {
        "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 30,
        "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False,
        "attention_bias": False, "moe_intermediate_size": 1407, "first_k_dense_replace": 0, "use_mla": True,
        "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
        "max_position_embeddings": 2048,
    },
    "MlpProjectorConfig": {
        "projector_type": "downsample_mlp_gelu", "input_dim": 1152, "n_embed": 2048, "depth": 2, "mlp_ratio": 1,
        "downsample_ratio": 2,
    },
    "Ovis2VisionConfig": {
        "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 8,
        "image_size": 224, "patch_size": 14, "hidden_act": "silu", "vocab_size": 16384, "hidden_stride": 1,
        "num_visual_indicator_tokens": 5, "qkv_bias": False, "mlp_bias": False,
    },
    "Llama4TextConfig": {
        "vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "num_hidden_layers": 48,
        "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
        "attention_bias": False, "num_local_experts": 16, "num_experts_per_tok": 1, "intermediate_size_mlp": 16384,
        "interleave_moe_layer_step": 1, "attention_chunk_size": 8192,
    },
    "GemmaConfig": {
        "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True,
        "attention_bias": False,
    },
    "Gemma2Config": {
        "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True,
        "attention_bias": False, "sliding_window": 4096,
    },
    "Gemma3TextConfig": {
        "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True,
        "attention_bias": False, "sliding_window": 4096, "sliding_window_pattern": 6,
        "max_position_embeddings": 131072,
    },
    "Gemma4TextConfig": {
        "vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True,
        "attention_bias": False, "sliding_window": 512, "attention_k_eq_v": False, "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144, "use_double_wide_mlp": False,
    },
    "Gemma4VisionConfig": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16, "num_attention_heads": 12,
        "patch_size": 16, "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False,
        "pooling_kernel_size": 3, "position_embedding_size": 10240,
    },
    "MllamaTextConfig": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
    },
    "MllamaVisionConfig": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_global_layers": 8,
        "attention_heads": 16, "patch_size": 14, "image_size": 448, "max_num_tiles": 4, "hidden_act": "gelu",
        "intermediate_layers_indices": [3, 7, 15, 23, 30],
    },
    "Qwen2VLVisionConfig": {
        "depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_act": "quick_gelu",
    },
    "Qwen2_5_VLVisionConfig": {
        "depth": 32, "hidden_size": 3584, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_act": "silu", "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31], "out_hidden_size": 3584,
    },
    "Qwen3VLVisionConfig": {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_act": "gelu_pytorch_tanh",
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24], "out_hidden_size": 3584,
    },
    "Qwen3_5VisionConfig": {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_act": "gelu_pytorch_tanh",
        "num_position_embeddings": 2304, "out_hidden_size": 3584,
    },
    "Qwen3OmniMoeVisionEncoderConfig": {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_act": "gelu_pytorch_tanh",
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24], "out_hidden_size": 3584,
    },
    "Glm4vVisionConfig": {
        "depth": 24, "hidden_size": 1536, "intermediate_size": 13696, "num_heads": 12, "patch_size": 14,
        "image_size": 336, "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_act": "silu",
        "out_hidden_size": 4096, "attention_bias": False,
    },
    "Glm4vMoeVisionConfig": {
        "depth": 24, "hidden_size": 1536, "intermediate_size": 13696, "num_heads": 12, "patch_size": 14,
        "image_size": 336, "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_act": "silu",
        "out_hidden_size": 4096, "attention_bias": False,
    },
    "Idefics3VisionConfig": {
        "hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16,
        "patch_size": 32, "image_size": 224, "hidden_act": "gelu_pytorch_tanh",
    },
    "Idefics3Config": {"scale_factor": 2, "tie_word_embeddings": False},
    "InternVLVisionConfig": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "patch_size": 14, "image_size": 448, "hidden_act": "gelu", "attention_bias": False, "use_qk_norm": False,
        "norm_type": "layer_norm",
    },
    "Gemma3Config": {"mm_tokens_per_image": 256, "tie_word_embeddings": True},
    "LlavaConfig": {"multimodal_projector_bias": True},
    "PixtralVisionConfig": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "patch_size": 16, "image_size": 1024, "hidden_act": "gelu",
    },
    "Mistral3Config": {"spatial_merge_size": 2, "multimodal_projector_bias": False, "tie_word_embeddings": True},
    "Llama4VisionConfig": {
        "hidden_size": 768, "intermediate_size": 5632, "num_hidden_layers": 34, "num_attention_heads": 16,
        "patch_size": 14, "image_size": 448, "hidden_act": "gelu", "pixel_shuffle_ratio": 0.5,
        "projector_input_dim": 4096, "projector_output_dim": 4096, "vision_output_dim": 7680,
    },
    "Molmo2TextConfig": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
        "attention_bias": False, "additional_vocab_size": 128, "qk_norm_type": "qwen3",
        "max_position_embeddings": 36864,
    },
    "Molmo2VisionConfig": {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 25, "num_attention_heads": 16,
        "image_size": 378, "patch_size": 14, "hidden_act": "gelu_pytorch_tanh",
    },
    "Molmo2AdapterConfig": {"num_attention_heads": 16, "head_dim": 72, "intermediate_size": 18944},
    "Phi4MultimodalConfig": {
        "vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
        "max_position_embeddings": 131072,
    },
    "Phi4MultimodalVisionConfig": {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "image_size": 448, "patch_size": 14, "hidden_act": "gelu_pytorch_tanh", "crop_size": 448,
    },
    "PaliGemmaConfig": {"projection_dim": 2048, "tie_word_embeddings": True},
    "Kimi_K25VisionConfig": {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "patch_size": 14, "hidden_act": "gelu_pytorch_tanh", "pos_emb_height": 64, "pos_emb_width": 64,
        "merge_kernel_size": 2,
    },
    # These are not in transformers but in OpenGVLab/InternVL and with Kimi-VL's weights.
    "MoonViTConfig": {
        "patch_size": 14, "init_pos_emb_height": 64, "init_pos_emb_width": 64, "num_attention_heads": 16,
        "num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304, "merge_kernel_size": 2,
        "hidden_act": "gelu_pytorch_tanh",
    },
    "InternVisionConfig": {
        "patch_size": 14, "image_size": 224, "qkv_bias": False, "hidden_size": 3200, "num_attention_heads": 25,
        "intermediate_size": 12800, "qk_normalization": True, "num_hidden_layers": 48, "hidden_act": "gelu",
        "norm_type": "rms_norm",
    },
    "InternVLChatConfig": {"min_dynamic_patch": 1, "max_dynamic_patch": 6, "use_thumbnail": False},
}  # fmt: skip
"""Defaults by the name of the class; a side stands for a square."""
