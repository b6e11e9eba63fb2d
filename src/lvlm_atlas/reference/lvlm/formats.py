"""Published formats: what a config.json says, and how tensors are called.

Absent keys of a config.json mean the format's defaults, which stand here.
"""

from __future__ import annotations

from dataclasses import replace

from lvlm_atlas.reference.lvlm.activation import ACTIVATIONS
from lvlm_atlas.reference.lvlm.config import (
    DeepStackLVLMConfig,
    DeepStackVisionConfig,
    LVLMConfig,
    TextConfig,
    VisionConfig,
    WindowLVLMConfig,
    WindowVisionConfig,
)
from lvlm_atlas.reference.lvlm.format import Format, Json, end_tokens, only, rotary


def llava_config(raw: Json) -> LVLMConfig:
    """See `Format.config`."""
    vision, text = raw.get("vision_config") or {}, raw.get("text_config") or {}
    only(vision, "model_type", "clip_vision_model")
    only(text, "model_type", "llama")
    layer = raw.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise ValueError(f"vision_feature_layer {layer!r} is not supported; supported: one layer")
    width, heads = text.get("hidden_size", 4096), text.get("num_attention_heads", 32)
    attention_bias = bool(text.get("attention_bias", False))
    return LVLMConfig(
        vision=VisionConfig(
            image_size=vision.get("image_size", 336),
            patch_size=vision.get("patch_size", 14),
            hidden_size=vision.get("hidden_size", 1024),
            intermediate_size=vision.get("intermediate_size", 4096),
            num_hidden_layers=vision.get("num_hidden_layers", 24),
            num_attention_heads=vision.get("num_attention_heads", 16),
            layer_norm_eps=vision.get("layer_norm_eps", 1e-5),
            hidden_act=only(vision, "hidden_act", "quick_gelu", *ACTIVATIONS),
        ),
        text=TextConfig(
            vocab_size=text.get("vocab_size", 32_000),
            hidden_size=width,
            intermediate_size=text.get("intermediate_size", 11_008),
            num_hidden_layers=text.get("num_hidden_layers", 32),
            num_attention_heads=heads,
            num_key_value_heads=text.get("num_key_value_heads") or heads,
            rms_norm_eps=text.get("rms_norm_eps", 1e-6),
            rope_theta=rotary(text, 10_000.0)["rope_theta"],
            head_width=text.get("head_dim"),
            qkv_bias=attention_bias,
            output_bias=attention_bias,
            mlp_bias=bool(text.get("mlp_bias", False)),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
            hidden_act=only(text, "hidden_act", "silu", *ACTIVATIONS),
        ),
        image_token_id=raw.get("image_token_index", raw.get("image_token_id", 32_000)),
        eos_token_ids=end_tokens(raw.get("eos_token_id"), text.get("eos_token_id", 2)),
        vision_feature_layer=layer,
        vision_feature_select_strategy=only(raw, "vision_feature_select_strategy", "default", "full"),
        projector_hidden_act=only(raw, "projector_hidden_act", "gelu", *ACTIVATIONS),
        projector_bias=bool(raw.get("multimodal_projector_bias", True)),
    )


def llava_next_config(raw: Json) -> LVLMConfig:
    """See `Format.config`."""
    only(raw, "vision_feature_select_strategy", "default")  # a class token has no place on a canvas
    canvases = raw.get("image_grid_pinpoints") or [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    return replace(llava_config(raw), image_grid_pinpoints=tuple((height, width) for height, width in canvases))


def qwen_config(raw: Json) -> WindowLVLMConfig:
    """See `Format.config`; older folders state the decoder beside the rest, not in `text_config`."""
    vision, text = raw.get("vision_config") or {}, raw.get("text_config") or raw
    only({"use_sliding_window": text.get("use_sliding_window")}, "use_sliding_window", False)
    only({"in_channels": vision.get("in_channels", vision.get("in_chans"))}, "in_channels", 3)
    rope = rotary(text, 1_000_000.0, "mrope")
    heads = text.get("num_attention_heads", 64)
    config = WindowLVLMConfig(
        vision=WindowVisionConfig(
            patch_size=vision.get("patch_size", 14),
            temporal_patch_size=vision.get("temporal_patch_size", 2),
            spatial_merge_size=vision.get("spatial_merge_size", 2),
            window_size=vision.get("window_size", 112),
            full_attention_layers=tuple(vision.get("fullatt_block_indexes", (7, 15, 23, 31))),
            hidden_size=vision.get("hidden_size", 3584),
            intermediate_size=vision.get("intermediate_size", 3420),
            num_hidden_layers=vision.get("depth", 32),
            num_attention_heads=vision.get("num_heads", 16),
            hidden_act=only(vision, "hidden_act", "silu", *ACTIVATIONS),
            rope_theta=rotary(vision, 10_000.0, "axial")["rope_theta"],
        ),
        text=TextConfig(
            vocab_size=text.get("vocab_size", 152_064),
            hidden_size=text.get("hidden_size", 8192),
            intermediate_size=text.get("intermediate_size", 29_568),
            num_hidden_layers=text.get("num_hidden_layers", 80),
            num_attention_heads=heads,
            num_key_value_heads=text.get("num_key_value_heads", 8) or heads,
            rms_norm_eps=text.get("rms_norm_eps", 1e-5),
            rope_theta=rope["rope_theta"],
            rope_sections=tuple(rope.get("mrope_section", (16, 24, 24))),
            qkv_bias=True,
            tie_word_embeddings=bool(raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
            hidden_act=only(text, "hidden_act", "silu", *ACTIVATIONS),
        ),
        image_token_id=raw.get("image_token_id", 151_655),
        video_token_id=raw.get("video_token_id", 151_656),
        tokens_per_second=vision.get("tokens_per_second", 4),
        eos_token_ids=end_tokens(raw.get("eos_token_id"), text.get("eos_token_id", 151_645)),
    )
    only({"out_hidden_size": vision.get("out_hidden_size")}, "out_hidden_size", config.text.hidden_size)
    return config


def qwen3_config(raw: Json) -> DeepStackLVLMConfig:
    """See `Format.config`."""
    vision, text = raw.get("vision_config") or {}, raw.get("text_config") or {}
    only(vision, "in_channels", 3)
    rope = rotary(text, 500_000.0, "mrope")
    only(rope, "mrope_interleaved", True)
    heads = text.get("num_attention_heads", 32)
    attention_bias = bool(text.get("attention_bias", False))
    config = DeepStackLVLMConfig(
        vision=DeepStackVisionConfig(
            patch_size=vision.get("patch_size", 16),
            temporal_patch_size=vision.get("temporal_patch_size", 2),
            spatial_merge_size=vision.get("spatial_merge_size", 2),
            num_position_embeddings=vision.get("num_position_embeddings", 2304),
            deepstack_layers=tuple(vision.get("deepstack_visual_indexes", (8, 16, 24))),
            hidden_size=vision.get("hidden_size", 1152),
            intermediate_size=vision.get("intermediate_size", 4304),
            num_hidden_layers=vision.get("depth", 27),
            num_attention_heads=vision.get("num_heads", 16),
            hidden_act=only(vision, "hidden_act", "gelu_pytorch_tanh", *ACTIVATIONS),
            rope_theta=rotary(vision, 10_000.0, "axial")["rope_theta"],
        ),
        text=TextConfig(
            vocab_size=text.get("vocab_size", 151_936),
            hidden_size=text.get("hidden_size", 4096),
            intermediate_size=text.get("intermediate_size", 22_016),
            num_hidden_layers=text.get("num_hidden_layers", 32),
            num_attention_heads=heads,
            num_key_value_heads=text.get("num_key_value_heads", 32) or heads,
            rms_norm_eps=text.get("rms_norm_eps", 1e-6),
            rope_theta=rope["rope_theta"],
            rope_sections=tuple(rope.get("mrope_section", (24, 20, 20))),
            rope_interleaved=True,
            head_width=text.get("head_dim", 128),
            qkv_bias=attention_bias,
            output_bias=attention_bias,
            qk_norm=True,
            tie_word_embeddings=bool(raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
            hidden_act=only(text, "hidden_act", "silu", *ACTIVATIONS),
        ),
        image_token_id=raw.get("image_token_id", 151_655),
        video_token_id=raw.get("video_token_id", 151_656),
        vision_start_token_id=raw.get("vision_start_token_id", 151_652),
        vision_end_token_id=raw.get("vision_end_token_id", 151_653),
        eos_token_ids=end_tokens(raw.get("eos_token_id"), text.get("eos_token_id")),
    )
    only({"out_hidden_size": vision.get("out_hidden_size")}, "out_hidden_size", config.text.hidden_size)
    square = config.vision.position_side**2
    only({"num_position_embeddings": config.vision.num_position_embeddings}, "num_position_embeddings", square)
    return config


_TOWER = "dialect.vision_tower.vision_model."
_LLAVA = Format(
    config=llava_config,
    names=(
        # Three spellings: as first published, as classes had it later, as they write it now.
        ("vision_tower.vision_model.", _TOWER),
        ("model.vision_tower.vision_model.", _TOWER),
        ("model.vision_tower.", _TOWER),
        ("vision_tower.", _TOWER),
        ("multi_modal_projector.", "dialect.adapter."),
        ("model.multi_modal_projector.", "dialect.adapter."),
        ("image_newline", "dialect.image_newline"),
        ("model.image_newline", "dialect.image_newline"),
        ("language_model.model.", "language_model.model."),
        ("language_model.lm_head.", "language_model.lm_head."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ),
    ignored=(".position_ids", ".rotary_emb.inv_freq"),
)

FORMATS: dict[str, Format] = {
    "llava": _LLAVA,
    "llava_next": replace(_LLAVA, config=llava_next_config),
    "qwen2_5_vl": Format(
        config=qwen_config,
        names=(
            ("visual.merger.", "dialect.adapter."),
            ("model.visual.merger.", "dialect.adapter."),
            ("visual.", "dialect.vision_tower."),
            ("model.visual.", "dialect.vision_tower."),
            ("lm_head.", "language_model.lm_head."),
            ("model.language_model.", "language_model.model."),
            ("model.", "language_model.model."),
        ),
        ignored=(".inv_freq",),
    ),
    "qwen3_vl": Format(
        config=qwen3_config,
        names=(
            ("model.visual.merger.", "dialect.adapter."),
            ("model.visual.", "dialect.vision_tower."),
            ("lm_head.", "language_model.lm_head."),
            ("model.language_model.", "language_model.model."),
        ),
        ignored=(".inv_freq",),
    ),
}
"""Formats by `model_type`."""
