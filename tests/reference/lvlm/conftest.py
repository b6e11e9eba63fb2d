"""Published classes with small random weights, saved as a published folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

IMAGE, VIDEO = 95, 94
"""Placeholders of the small models."""


@pytest.fixture(scope="session")
def transformers() -> Any:
    """The library that defines the published classes, silent; without it the test is skipped, visibly."""
    library = pytest.importorskip("transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


@pytest.fixture
def llava(transformers: Any) -> Callable[..., nn.Module]:
    """A small `LlavaForConditionalGeneration`, LLaVA-NeXT's if canvases are given; keywords go to configurations."""

    def make(
        vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, seed: int = 0, **top: Any
    ) -> nn.Module:
        family = "LlavaNext" if "image_grid_pinpoints" in top else "Llava"
        config = getattr(transformers, f"{family}Config")(
            vision_config=transformers.CLIPVisionConfig(
                **{
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 4,
                    "image_size": 28,
                    "patch_size": 7,
                    "projection_dim": 16,
                }
                | (vision or {})
            ),
            text_config=transformers.LlamaConfig(
                **{
                    "vocab_size": 96,
                    "hidden_size": 48,
                    "intermediate_size": 80,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 4,
                    "eos_token_id": None,
                }
                | (text or {})
            ),
            image_token_index=IMAGE,
            **top,
        )
        return shaken(getattr(transformers, f"{family}ForConditionalGeneration")(config), seed)

    return make


@pytest.fixture
def qwen(transformers: Any) -> Callable[..., nn.Module]:
    """A small `Qwen2_5_VLForConditionalGeneration`; keywords go to its configurations."""

    def make(
        vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, seed: int = 0, **top: Any
    ) -> nn.Module:
        config = transformers.Qwen2_5_VLConfig(
            vision_config={
                "depth": 4,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 4,
                "patch_size": 4,
                "window_size": 16,
                "out_hidden_size": 48,
                "fullatt_block_indexes": [1, 3],
                "tokens_per_second": 2,
            }
            | (vision or {}),
            text_config={
                "vocab_size": 96,
                "hidden_size": 48,
                "intermediate_size": 80,
                "num_hidden_layers": 2,
                "num_attention_heads": 3,
                "num_key_value_heads": 1,
                "bos_token_id": None,
                "eos_token_id": None,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
            }
            | (text or {}),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=92,
            vision_end_token_id=93,
            **top,
        )
        return shaken(transformers.Qwen2_5_VLForConditionalGeneration(config), seed)

    return make


@pytest.fixture
def qwen3(transformers: Any) -> Callable[..., nn.Module]:
    """A small `Qwen3VLForConditionalGeneration`; keywords go to its configurations."""

    def make(
        vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, seed: int = 0, **top: Any
    ) -> nn.Module:
        config = transformers.Qwen3VLConfig(
            vision_config={
                "depth": 4,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 4,
                "patch_size": 4,
                "out_hidden_size": 48,
                "num_position_embeddings": 49,
                "deepstack_visual_indexes": [0, 2],
            }
            | (vision or {}),
            text_config={
                "vocab_size": 96,
                "hidden_size": 48,
                "intermediate_size": 80,
                "num_hidden_layers": 3,
                "num_attention_heads": 3,
                "num_key_value_heads": 1,
                "head_dim": 16,
                "bos_token_id": None,
                "eos_token_id": None,
                "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2]},
            }
            | (text or {}),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=92,
            vision_end_token_id=93,
            **top,
        )
        return shaken(transformers.Qwen3VLForConditionalGeneration(config), seed)

    return make


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """The model with weights wide enough that every part of it matters, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            fan_in = 1 if weight.dim() < 2 or "embed_tokens" in name else weight[0].numel()
            noise = torch.randn(weight.shape, generator=generator) * fan_in**-0.5
            is_norm = "norm" in name or ".ln_q" in name
            weight.copy_(1 + 0.2 * noise if is_norm and name.endswith("weight") else noise)
    return model.eval()


@pytest.fixture(scope="session")
def save() -> Callable[..., Path]:
    """`save(model, folder, max_shard_size=…)` writes a published folder and returns it."""

    def write(model: Any, folder: Path, **how: Any) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_pretrained(folder, **how)
        return folder

    return write


@pytest.fixture(scope="session")
def greedy() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """`greedy(model, steps, **processed)`: the tokens (B, T) that a published model generates, and their logits."""

    def generate(model: Any, steps: int, **processed: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            told = model.generate(
                **processed,
                do_sample=False,
                max_new_tokens=steps,
                min_new_tokens=steps,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
        return told.sequences[:, processed["input_ids"].shape[1] :], torch.stack(told.logits, dim=1)

    return generate
