"""Configurations by name."""

from __future__ import annotations

from lvlm_atlas.reference.lvlm.config import (
    Config,
    LVLMConfig,
    TextConfig,
    VisionConfig,
    WindowLVLMConfig,
    WindowVisionConfig,
)

PRESETS: dict[str, Config] = {
    "tiny": LVLMConfig(
        vision=VisionConfig(
            image_size=56,
            patch_size=7,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
        ),
        text=TextConfig(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        image_token_id=127,
    ),
    "tiny-mha": LVLMConfig(
        vision=VisionConfig(
            image_size=42,
            patch_size=7,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
        ),
        text=TextConfig(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
        ),
        image_token_id=127,
    ),
    "llava-1.5-7b": LVLMConfig(
        vision=VisionConfig(
            image_size=336,
            patch_size=14,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
        ),
        text=TextConfig(
            vocab_size=32_064,
            hidden_size=4096,
            intermediate_size=11_008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
        ),
        image_token_id=32_000,
        eos_token_ids=(2,),
    ),
    "tiny-window": WindowLVLMConfig(
        vision=WindowVisionConfig(
            patch_size=4,
            window_size=16,
            full_attention_layers=(1, 3),
            frame_size=(40, 48),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
        ),
        text=TextConfig(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-6,
            rope_theta=1_000_000.0,
            rope_sections=(2, 3, 3),
            qkv_bias=True,
        ),
        image_token_id=126,
        video_token_id=127,
    ),
    "qwen2.5-vl-3b": WindowLVLMConfig(
        vision=WindowVisionConfig(),
        text=TextConfig(
            vocab_size=151_936,
            hidden_size=2048,
            intermediate_size=11_008,
            num_hidden_layers=36,
            num_attention_heads=16,
            num_key_value_heads=2,
            rms_norm_eps=1e-6,
            rope_theta=1_000_000.0,
            rope_sections=(16, 24, 24),
            qkv_bias=True,
            tie_word_embeddings=True,
        ),
        eos_token_ids=(151_645, 151_643),
    ),
    "qwen2.5-vl-7b": WindowLVLMConfig(
        vision=WindowVisionConfig(),
        text=TextConfig(
            vocab_size=152_064,
            hidden_size=3584,
            intermediate_size=18_944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            rms_norm_eps=1e-6,
            rope_theta=1_000_000.0,
            rope_sections=(16, 24, 24),
            qkv_bias=True,
        ),
        eos_token_ids=(151_645, 151_643),
    ),
}
"""Configurations by name; weights are random. Those called tiny are for tests, the others have published shapes."""
