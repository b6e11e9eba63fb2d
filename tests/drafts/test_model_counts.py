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
}  # fmt: skip


@pytest.mark.parametrize("family", CASES)
def test_the_parameters_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    vision, text, more = CASES[family]
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.for_model(family, vision_config=vision, text_config=text, **more)
        model = transformers.AutoModelForImageTextToText.from_config(config)
    want = sum(parameter.numel() for parameter in model.parameters())
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": family, "vision_config": vision, "text_config": text, **more}))
    assert drafted(path, None, "mine").record["params"]["total"] == want
