"""A draft of a model takes the types of a quantised checkpoint's weights from its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.drafts.test_model import MODELS, qwen2_5_vl, written

from lvlm_atlas.drafts.model import Draft, drafted
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.weights import given_types, number_type
from lvlm_atlas.roofline.workload import Workload

ALL = "llm={0}+encoder={0}+adapter={0}"
CASES: list[tuple[dict[str, Any], str]] = [
    ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}, "llm=int4-g128"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False}, "llm=int4-g64"),
    ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "llm=int8"),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, ALL.format("fp8-g128")),
    ({"quant_method": "fp8", "modules_to_not_convert": ["model.visual.blocks.0.mlp"]}, "llm=fp8"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ALL.format("int4-g64-s32")),
    (
        {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "llm_int8_skip_modules": ["visual"]},
        "llm=int4-g64-s8",
    ),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, ALL.format("int8")),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["vision_model*"]}, "llm=nvfp4"),
    (
        {
            "quant_method": "compressed-tensors", "ignore": ["re:visual.*", "lm_head"],
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
        },
        "llm=int4-g128-s16",
    ),
    (
        {
            "quant_method": "compressed-tensors", "ignore": ["re:visual.*", "lm_head"],
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
        },
        "llm=fp8",
    ),
]  # fmt: skip


def draft_of(folder: Path, **more: Any) -> Draft:
    """The draft of Qwen2.5-VL-7B with more in its configuration."""
    config, processor = qwen2_5_vl(MODELS["qwen2.5-vl-7b"])
    return drafted(*written(folder, {**config, **more}, processor), "mine")


@pytest.mark.parametrize(("config", "types"), CASES, ids=[json.dumps(config)[:60] for config, _ in CASES])
def test_the_types_are_read_and_said(config: dict[str, Any], types: str, tmp_path: Path) -> None:
    draft = draft_of(tmp_path, quantization_config=config)
    assert draft.record["weight_dtype"] == types
    assert given_types(types)
    assert any(note.startswith(f"weight_dtype is {types}, read from quantization_config") for note in draft.notes)


def test_mlx_says_it_in_a_place_of_its_own(tmp_path: Path) -> None:
    draft = draft_of(tmp_path, quantization={"group_size": 64, "bits": 4})
    type_ = "int4-g64-s32"
    assert draft.record["weight_dtype"] == f"llm={type_}+embedding={type_}+head={type_}"
    assert number_type(type_).bits == 4.5
    assert str(number_type(type_)) == type_


@pytest.mark.parametrize("config", [{"quant_method": "hqq"}, {"quant_method": "gptq", "bits": 3}, {}])
def test_what_is_not_read_is_said(config: dict[str, Any], tmp_path: Path) -> None:
    draft = draft_of(tmp_path, quantization_config=config)
    assert "weight_dtype" not in draft.record
    assert any("quantization_config" in note and "is not read" in note for note in draft.notes)


def test_a_checkpoint_that_is_not_quantised_has_one_type(tmp_path: Path) -> None:
    draft = draft_of(tmp_path)
    assert "weight_dtype" not in draft.record
    assert not any("weight_dtype" in note for note in draft.notes)


def test_estimates_take_the_types_of_a_record_unless_others_are_given(planner: Planner) -> None:
    bf16 = planner.model("qwen2-vl-7b")
    awq = Model(**{**{key: getattr(bf16, key) for key in bf16.__dataclass_fields__}, "weight_dtype": "llm=int4-g128"})
    request = Workload(text_tokens=10, output_tokens=2)

    def weight_gb(model: Model, **given: str) -> float:
        return planner.estimate(model, "h200", request, deployment=Deployment(**given)).memory.weight_byte / 1e9

    assert round(weight_gb(awq), 3) == 6.922
    assert weight_gb(awq, weight_dtype="bf16") == weight_gb(bf16)
