"""Drafts of models from published configurations: every number of the catalog comes out, and nothing is guessed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.drafts.test_model_counts import CASES as COUNTED

from lvlm_atlas.atlas.shelves import shelves
from lvlm_atlas.drafts.model import Draft, drafted, known
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.schema.model import Model
from lvlm_atlas.specs.records import model_spec

MODELS = shelves().models
DTYPE = {"bf16": "bfloat16", "fp16": "float16"}
ACT = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "silu": "silu"}


def text(model: Model, kind: str) -> dict[str, Any]:
    """A text configuration as transformers writes it."""
    llm = model.llm
    found: dict[str, Any] = {
        "model_type": kind, "hidden_size": llm.hidden, "intermediate_size": llm.intermediate,
        "num_hidden_layers": llm.layers, "num_attention_heads": llm.heads, "num_key_value_heads": llm.kv_heads,
        "vocab_size": llm.vocab, "head_dim": llm.head_dim, "tie_word_embeddings": llm.tied_embeddings,
    }  # fmt: skip
    if llm.context:
        found["max_position_embeddings"] = llm.context
    if llm.experts:
        found |= {
            "num_experts": llm.experts.routed, "num_experts_per_tok": llm.experts.top_k,
            "moe_intermediate_size": llm.experts.intermediate, "decoder_sparse_step": 1, "mlp_only_layers": [],
        }  # fmt: skip
    return found


def vit(model: Model, kind: str, **more: Any) -> dict[str, Any]:
    """A vision configuration as transformers writes it."""
    vision = model.vision
    return {
        "model_type": kind, "hidden_size": vision.hidden, "intermediate_size": vision.mlp,
        "num_hidden_layers": vision.layers, "num_attention_heads": vision.heads, "image_size": vision.image_size,
        "patch_size": vision.patch_size, "hidden_act": ACT[vision.activation], **more,
    }  # fmt: skip


def llava(model: Model, kind: str = "llava") -> tuple[dict[str, Any], dict[str, Any]]:
    text_kind = "mistral" if model.llm.kv_heads == 8 else "llama"
    config = {
        "model_type": kind, "vision_config": vit(model, "clip_vision_model"), "text_config": text(model, text_kind),
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    }  # fmt: skip
    return config, {}


def llava_next(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    config, _ = llava(model, "llava_next")
    pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    return {**config, "image_grid_pinpoints": pinpoints}, {}


def llava_onevision(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    sides = range(384, 2305, 384)
    return {
        "model_type": "llava_onevision", "vision_config": vit(model, "siglip_vision_model", vision_use_head=False),
        "text_config": text(model, "qwen2"), "vision_feature_layer": -1, "vision_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": [[a, b] for a in sides for b in sides],
    }, {}  # fmt: skip


def qwen_vision(model: Model, **more: Any) -> dict[str, Any]:
    vision = model.vision
    return {
        "depth": vision.layers, "hidden_size": vision.hidden, "intermediate_size": vision.mlp,
        "num_heads": vision.heads, "patch_size": vision.patch_size, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "hidden_act": ACT[vision.activation], "out_hidden_size": model.llm.hidden, **more,
    }  # fmt: skip


def qwen2_vl(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    vision = {
        "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3, "hidden_size": 3584,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    # The first files of the family hold the text configuration at the top.
    return {**text(model, "x"), "model_type": "qwen2_vl", "vision_config": vision}, {
        "min_pixels": 3136,
        "max_pixels": 12845056,
    }


def qwen2_5_vl(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    vision = qwen_vision(model, window_size=112, fullatt_block_indexes=[7, 15, 23, 31])
    config = {"model_type": "qwen2_5_vl", "vision_config": vision, "text_config": text(model, "qwen2_5_vl_text")}
    return config, {"min_pixels": 3136, "max_pixels": 12845056}


def qwen3_vl(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    kind = "qwen3_vl_moe" if model.llm.experts else "qwen3_vl"
    vision = qwen_vision(model, deepstack_visual_indexes=[8, 16, 24], num_position_embeddings=2304)
    config = {"model_type": kind, "vision_config": vision, "text_config": text(model, f"{kind}_text")}
    return config, {"size": {"shortest_edge": 65536, "longest_edge": 16777216}}


def internvl_chat(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    kind = {92553: "internlm2", 151674: "qwen2", 151936: "qwen3"}[model.llm.vocab]
    large = model.vision.norm == "rmsnorm"
    vision = vit(
        model, "intern_vit_6b", norm_type="rms_norm" if large else "layer_norm", qkv_bias=not large,
        qk_normalization=large,
    )  # fmt: skip
    return {
        "model_type": "internvl_chat", "vision_config": vision, "llm_config": text(model, kind), "use_thumbnail": True,
        "downsample_ratio": 0.5, "min_dynamic_patch": 1, "max_dynamic_patch": 12, "force_image_size": 448,
    }, {}  # fmt: skip


def internvl(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same models in the form of transformers."""
    config, _ = internvl_chat(model)
    large = model.vision.norm == "rmsnorm"
    vision = vit(
        model, "internvl_vision", attention_bias=not large, use_qk_norm=large, image_size=[448, 448],
        patch_size=[14, 14], norm_type="rms_norm" if large else "layer_norm",
    )  # fmt: skip
    made = {"model_type": "internvl", "vision_config": vision, "text_config": config["llm_config"]}
    return {**made, "downsample_ratio": 0.5}, {"min_patches": 1, "max_patches": 12, "crop_to_patches": True}


def minicpmv(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    slices = {"max_slice_nums": 9, "patch_size": 14, "scale_resolution": 448, "model_type": "minicpmv"}
    return {
        **text(model, "minicpmv"), "version": 2.6, "query_num": 64, "slice_config": slices,
        "vision_config": {**vit(model, "siglip"), "image_size": 980}, "drop_vision_last_layer": False,
    }, {}  # fmt: skip


def nvila(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    return {
        "model_type": "llava_llama", "llm_cfg": {**text(model, "qwen2"), "model_max_length": 8192},
        "vision_tower_cfg": vit(model, "siglip_vision_model"), "mm_vision_select_layer": -2, "num_video_frames": 8,
        "mm_projector_cfg": {"mm_projector_type": "mlp_downsample"}, "mm_hidden_size": 3456,
        "image_aspect_ratio": "dynamic_s2", "s2_scales": "448,896,1344",
    }, {}  # fmt: skip


def gemma3(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    given = {**text(model, "gemma3_text"), "sliding_window": 1024}
    # The published file leaves these out.
    for key in ("vocab_size", "head_dim", "tie_word_embeddings", "max_position_embeddings"):
        del given[key]
    vision = vit(model, "siglip_vision_model", vision_use_head=False)
    config = {"model_type": "gemma3", "vision_config": vision, "text_config": given, "mm_tokens_per_image": 256}
    return config, {"do_pan_and_scan": None}


def mllama(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    vision = {
        "model_type": "mllama_vision_model", "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
        "num_global_layers": 8, "attention_heads": 16, "image_size": 560, "patch_size": 14, "max_num_tiles": 4,
        "hidden_act": "gelu", "intermediate_layers_indices": [3, 7, 15, 23, 30],
        "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
    }  # fmt: skip
    crosses = list(model.llm.cross_attention_layers)
    given = {**text(model, "mllama_text_model"), "cross_attention_layers": crosses}
    return {"model_type": "mllama", "vision_config": vision, "text_config": given}, {}


def idefics3(model: Model, kind: str = "idefics3") -> tuple[dict[str, Any], dict[str, Any]]:
    config = {
        "model_type": kind, "vision_config": vit(model, kind), "text_config": text(model, "llama"), "scale_factor": 3,
    }  # fmt: skip
    return config, {"size": {"longest_edge": 1536}, "video_sampling": {"max_frames": 64}}


def smolvlm(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    return idefics3(model, "smolvlm")


def deepseek_vl_v2(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """As its authors publish it: latent attention is nulled where it is not used."""
    llm, experts, latent = model.llm, model.llm.experts, model.llm.mla
    assert experts is not None
    language = {
        **text(model, "deepseek_v2"), "n_routed_experts": experts.routed, "n_shared_experts": experts.shared,
        "first_k_dense_replace": experts.dense_layers, "use_mla": latent is not None, "q_lora_rank": None,
        "topk_method": "noaux_tc", "kv_lora_rank": latent and latent.kv_lora_rank,
        "qk_rope_head_dim": latent.rope_dim if latent else 0, "qk_nope_head_dim": latent.nope_dim if latent else 0,
        "v_head_dim": latent.v_dim if latent else 0,
    }  # fmt: skip
    for key in ("num_experts", "decoder_sparse_step", "mlp_only_layers", "head_dim"):
        del language[key]
    canvases = [[tall * 384, wide * 384] for tall in range(1, 10) for wide in range(1, 10) if tall * wide <= 9]
    return {
        "model_type": "deepseek_vl_v2", "language_config": language, "candidate_resolutions": canvases,
        "projector_config": {"model_type": "mlp_projector", "n_embed": llm.hidden},
        "vision_config": {"model_name": "siglip_so400m_patch14_384", "layers": 27, "mlp_ratio": 3.7362, "width": 1152},
    }, {}  # fmt: skip


CASES: list[tuple[str, Callable[[Model], tuple[dict[str, Any], dict[str, Any]]]]] = [
    ("llava-1.5-7b", llava), ("llava-1.5-13b", llava), ("llava-next-7b-vicuna", llava_next),
    ("llava-next-7b-mistral", llava_next), ("llava-onevision-7b", llava_onevision), ("qwen2-vl-7b", qwen2_vl),
    ("qwen2.5-vl-3b", qwen2_5_vl), ("qwen2.5-vl-7b", qwen2_5_vl), ("qwen2.5-vl-32b", qwen2_5_vl),
    ("qwen2.5-vl-72b", qwen2_5_vl), ("qwen3-vl-8b", qwen3_vl), ("qwen3-vl-30b-a3b", qwen3_vl),
    ("qwen3-vl-235b-a22b", qwen3_vl), ("internvl2.5-8b", internvl_chat), ("internvl3-8b", internvl_chat),
    ("internvl3-78b", internvl_chat), ("internvl3.5-8b", internvl_chat), ("internvl3-8b", internvl),
    ("internvl3-78b", internvl), ("gemma-3-12b", gemma3), ("llama-3.2-11b-vision", mllama),
    ("smolvlm-2.2b", idefics3), ("smolvlm-2.2b", smolvlm), ("deepseek-vl2-tiny", deepseek_vl_v2),
    ("deepseek-vl2-small", deepseek_vl_v2), ("deepseek-vl2", deepseek_vl_v2), ("minicpm-v-2.6", minicpmv),
    ("nvila-8b", nvila),
]  # fmt: skip

UNUSED_NORM = {"llava-onevision-7b": 2 * 1152}
"""The norm behind the encoder, which transformers loads and does not use, and the catalog does not count."""

OPEN = {"name", "hf_id", "year", "vision.name", "llm.name", "tokens.examples", "tokens.video.sampling.max_frames"}
"""What files of these families leave open, even if they are complete."""


def written(folder: Path, config: Mapping[str, Any], processor: Mapping[str, Any]) -> tuple[Path, Path]:
    paths = folder / "config.json", folder / "preprocessor_config.json"
    for path, data in zip(paths, (config, processor), strict=True):
        path.write_text(json.dumps(data), encoding="utf-8")
    return paths


def filled(draft: Draft, model: Model) -> dict[str, Any]:
    """The draft, with what it leaves open taken from the catalog."""
    catalog = model.model_dump(mode="json", exclude_none=True)

    def walk(value: Any, known: Any) -> Any:
        if isinstance(value, str) and value.startswith("FILL IN"):
            return known
        if isinstance(value, dict):
            return {key: walk(item, known.get(key) if isinstance(known, dict) else None) for key, item in value.items()}
        return value

    record: dict[str, Any] = walk(draft.record, catalog)
    if "video" in record["tokens"]:
        record["tokens"]["video"]["sampling"] = catalog["tokens"]["video"]["sampling"]
    return record


@pytest.mark.parametrize(("id_", "family"), CASES, ids=[f"{id_}-{family.__name__}" for id_, family in CASES])
def test_a_draft_has_every_number_of_the_catalog(id_: str, family: Callable[..., Any], tmp_path: Path) -> None:
    model = MODELS[id_]
    config, processor = family(model)
    draft = drafted(*written(tmp_path, {"torch_dtype": DTYPE[model.dtype], **config}, processor), id_)
    places = {line.partition(": ")[0] for line in draft.open}
    assert places <= OPEN
    record = Model.model_validate_json(json.dumps(filled(draft, model)))
    got, want = model_spec(record), model_spec(model)
    unused = got.encoder.parameters - want.encoder.parameters
    assert unused in (0, UNUSED_NORM.get(id_, 0))
    got = replace(got, encoder=replace(got.encoder, parameters=want.encoder.parameters))
    for part in ("encoder", "adapter", "llm", "tokens"):
        assert getattr(got, part) == getattr(want, part), part
    assert got == want
    for part in ("adapter", "llm", "llm_active"):
        assert getattr(record.params, part) == getattr(model.params, part)
    assert record.params.total == model.params.total + unused
    for part in ("activation", "norm"):
        assert getattr(record.vision, part) == getattr(model.vision, part)
    assert record.vision.deepstack_layers == model.vision.deepstack_layers
    assert record.injection.type == model.injection.type
    assert (record.llm.qkv_bias, record.llm.qk_norm) == (model.llm.qkv_bias, model.llm.qk_norm)
    assert record.adapter.merge == model.adapter.merge


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_projector_cfg": {"mm_projector_type": "resampler"}}, "mm_projector_type is 'resampler'"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"s2_scales": [448]}, r"s2_scales is \[448\]; it must be such as"),
    ],
)
def test_what_vila_names_and_nobody_knows_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config, _ = nvila(MODELS["nvila-8b"])
    with pytest.raises(AtlasError, match=message):
        drafted(written(tmp_path, {**config, **change}, {})[0], None, "mine")


def test_the_lite_form_of_nvila_merges_nine_patches(tmp_path: Path) -> None:
    config, _ = nvila(MODELS["nvila-8b"])
    lite = {"mm_projector_cfg": {"mm_projector_type": "mlp_downsample_3x3_fix"}, "mm_hidden_size": 1152}
    record = drafted(written(tmp_path, {**config, **lite, "image_aspect_ratio": "dynamic"}, {})[0], None, "mine").record
    assert record["adapter"]["widths"] == [10_368, 3456, 3584, 3584]
    linear = 10_369 * 3456 + 3457 * 3584 + 3585 * 3584
    assert record["params"]["adapter"] == linear + 2 * (10_368 + 3456)
    assert record["tokens"]["image"]["params"]["token_per_tile"] == 121


MOLMO = {
    "model_type": "molmo", "hidden_size": 3584, "intermediate_size": 37_888, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064, "embedding_size": 152_064,
    "qkv_bias": True, "attention_layer_norm": False, "tie_word_embeddings": False, "max_position_embeddings": 4096,
}  # fmt: skip
"""The configuration of Molmo-7B-D, whose language model is Qwen2-7B."""


def test_molmo_is_qwen2_behind_attention_that_pools_and_keeps_rows_of_its_own(tmp_path: Path) -> None:
    record = drafted(written(tmp_path, MOLMO, {})[0], None, "mine").record
    qwen2 = MODELS["qwen2-vl-7b"].params.llm
    assert record["params"]["llm"] == qwen2 + 128 * 3584
    attention = 3 * 2049 * 1024 + 1025 * 1024
    assert record["params"]["adapter"] == attention + 2 * 2048 + 2 * 1024 * 18_944 + 18_944 * 3584
    assert (record["vision"]["layers"], record["vision"]["layers_needed"]) == (23, 22)
    normed = {**MOLMO, "attention_layer_norm": True}
    more = drafted(written(tmp_path, normed, {})[0], None, "mine").record["params"]["llm"]
    assert more == record["params"]["llm"] + 28 * (3584 + 512)


def test_molmo2_in_its_authors_form_ends_with_the_deepest_layer_that_is_used(tmp_path: Path) -> None:
    new = {"image_size": 378, "patch_size": 14, "num_hidden_layers": 25, "num_position_embeddings": 729}
    old = {
        "image_default_input_size": [378, 378],
        "image_patch_size": 14,
        "num_hidden_layers": 27,
        "image_num_pos": 729,
    }
    text_, adapter = {"qkv_bias": False}, {"vit_layers": [-3, -9]}
    parts = {"model_type": "molmo2", "text_config": text_, "adapter_config": adapter}
    authors = drafted(written(tmp_path, {**parts, "vit_config": old}, {})[0], None, "mine").record
    adapter["vit_layers"] = [24, 18]
    assert drafted(written(tmp_path, {**parts, "vision_config": new}, {})[0], None, "mine").record == authors
    assert (authors["vision"]["layers"], authors["adapter"]["widths"][0]) == (25, 2304)


def test_the_language_model_of_minicpm_v_follows_its_version(tmp_path: Path) -> None:
    config, _ = minicpmv(MODELS["minicpm-v-2.6"])
    biased, normed = (
        drafted(written(tmp_path, {**config, "version": version}, {})[0], None, "mine").record["llm"]
        for version in (2.6, "4.5")
    )
    assert (biased["qkv_bias"], biased["qk_norm"]) == (True, False)
    assert (normed["qkv_bias"], normed["qk_norm"]) == (False, True)
    with pytest.raises(AtlasError, match=r"version is 3\.0, which is not known"):
        drafted(written(tmp_path, {**config, "version": 3.0}, {})[0], None, "mine")


def test_every_family_has_a_case() -> None:
    made = {family(MODELS[id_])[0]["model_type"] for id_, family in CASES}
    assert made | {family.partition(" ")[0] for family in COUNTED} | ORIGINAL | UNCOUNTED == set(known())


ORIGINAL = {"llava", "llava_llama", "llava_mistral", "llava_qwen"}
"""Families that have their authors' form of LLaVA."""
UNCOUNTED = {"kimi_vl", "molmo"}
"""Families that transformers has not, so that nothing but the catalog holds their counts."""
UNPAD = {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"}


@pytest.mark.parametrize(
    ("id_", "kind", "more"),
    [
        ("llava-1.5-7b", "llava", {"image_aspect_ratio": "pad"}),
        ("llava-1.5-13b", "llava_llama", {"image_aspect_ratio": "pad"}),
        (
            "llava-next-7b-mistral", "llava_mistral",
            {**UNPAD, "image_grid_pinpoints": "[(672, 336), (336, 672), (672, 672), (336, 1008), (1008, 336)]"},
        ),
        (
            "llava-next-7b-vicuna", "llava",
            {**UNPAD, "image_grid_pinpoints": [[672, 336], [336, 672], [672, 672], [336, 1008], [1008, 336]]},
        ),
        (
            "llava-onevision-7b", "llava_qwen",
            {**UNPAD, "image_aspect_ratio": "anyres_max_9", "image_grid_pinpoints": "(1x1),...,(6x6)"},
        ),
    ],
)  # fmt: skip
def test_llava_in_its_authors_form_has_every_number_of_the_catalog(
    id_: str, kind: str, more: dict[str, Any], tmp_path: Path
) -> None:
    model = MODELS[id_]
    siglip = model.vision.hidden == 1152
    config = {
        **text(model, "x"), "model_type": kind, "torch_dtype": DTYPE[model.dtype], "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "google/siglip-so400m-patch14-384" if siglip else "openai/clip-vit-large-patch14-336",
        "mm_vision_select_layer": -2, "mm_hidden_size": model.vision.hidden, **more,
    }  # fmt: skip
    record = drafted(written(tmp_path, config, {})[0], None, id_).record
    for part in ("adapter", "llm"):
        assert record["params"][part] == getattr(model.params, part)
    assert record["params"]["total"] == model.params.total + UNUSED_NORM.get(id_, 0)
    assert record["vision"]["layers_needed"] == model.vision.layers_needed
    assert record["tokens"]["image"]["rule"] == model.tokens.image.rule
    assert record["tokens"]["image"]["params"] == model.model_dump(mode="json")["tokens"]["image"]["params"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_vision_tower": "openai/clip-vit-large-patch14-33"}, "did you mean"),
        ({"mm_projector_type": "resampler"}, "only linear and mlp2x_gelu"),
        ({"image_aspect_ratio": "anyres"}, "with mm_patch_merge_type None"),
        ({**UNPAD, "image_grid_pinpoints": "oops"}, "must be a list"),
    ],
)
def test_what_the_authors_form_of_llava_names_and_nobody_knows_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = {
        **text(MODELS["llava-1.5-7b"], "llava"), "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_projector_type": "mlp2x_gelu", **change,
    }  # fmt: skip
    with pytest.raises(AtlasError, match=message):
        drafted(written(tmp_path, config, {})[0], None, "mine")


def test_the_short_configuration_of_llava_takes_the_defaults_of_its_class_and_says_so(tmp_path: Path) -> None:
    config, _ = llava(MODELS["llava-1.5-7b"])
    config["text_config"] = {"_name_or_path": "lmsys/vicuna-7b-v1.5", "model_type": "llama", "vocab_size": 32000}
    del config["vision_config"]["hidden_act"]
    draft = drafted(written(tmp_path, config, {})[0], None, "llava-1.5-7b")
    assert (
        "vision_config.hidden_act is not in config.json: quick_gelu is the default of CLIPVisionConfig" in draft.notes
    )
    assert draft.record["vision"]["activation"] == "quick_gelu"
    assert draft.record["params"]["total"] == MODELS["llava-1.5-7b"].params.total
    assert "text_config.hidden_size is not in config.json: 4096 is the default of LlamaConfig" in draft.notes
    assert draft.record["llm"]["name"] == "lmsys/vicuna-7b-v1.5"


def test_the_context_is_that_of_the_language_model_or_it_is_left_out_and_said(tmp_path: Path) -> None:
    config, _ = llava(MODELS["llava-1.5-7b"])
    config["max_position_embeddings"] = 77
    config["vision_config"]["max_position_embeddings"] = 78
    assert drafted(written(tmp_path, config, {})[0], None, "mine").record["llm"]["context"] == 4096
    del config["text_config"]["max_position_embeddings"]
    draft = drafted(written(tmp_path, config, {})[0], None, "mine")
    assert "context" not in draft.record["llm"]
    assert "text_config.max_position_embeddings is not in config.json: llm.context is left out" in draft.notes
    assert not any(line.startswith("llm.context") for line in draft.open)


def test_what_a_file_does_not_say_is_left_open_with_everything_that_follows_from_it(tmp_path: Path) -> None:
    config, _ = internvl_chat(MODELS["internvl2.5-8b"])
    del config["llm_config"]["intermediate_size"]
    draft = drafted(written(tmp_path, config, {})[0], None, "mine")
    places = {line.partition(": ")[0] for line in draft.open}
    assert {"dtype", "llm.intermediate", "params.llm", "params.total"} <= places
    assert "params.vision" not in places
    assert draft.record["llm"]["intermediate"].startswith("FILL IN")
    assert any("--preprocessor" in note for note in draft.notes)


def test_where_a_file_is_short_the_defaults_of_its_classes_are_taken_and_said(tmp_path: Path) -> None:
    config, processor = qwen2_5_vl(MODELS["qwen2.5-vl-7b"])
    for key in ("intermediate_size", "fullatt_block_indexes", "num_heads", "depth", "patch_size"):
        config["vision_config"].pop(key, None)
    whole = drafted(*written(tmp_path, qwen2_5_vl(MODELS["qwen2.5-vl-7b"])[0], processor), "mine").record
    draft = drafted(*written(tmp_path, config, processor), "mine")
    assert draft.record == whole
    said = "vision_config.intermediate_size is not in config.json: 3420 is the default of Qwen2_5_VLVisionConfig"
    assert said in draft.notes


def test_an_empty_configuration_of_each_family_is_left_open_or_refused_but_never_guessed(tmp_path: Path) -> None:
    for family in known():
        path = written(tmp_path, {"model_type": family}, {})[0]
        try:
            draft = drafted(path, None, "mine")
        except AtlasError:
            continue
        open_ = any(line.startswith("params.total") for line in draft.open)
        assert open_ or sum("is the default of" in note for note in draft.notes) > 10, family


@pytest.mark.parametrize(
    ("text_", "message"),
    [
        ('{"model_type": "llava",\n  oops}', ":2:3: this is no JSON"),
        ("[1]", "holds no mapping"),
        ("{}", "known families: deepseek_vl_v2, gemma3"),
        ('{"model_type": "llavva"}', "did you mean 'llava'?"),
        ('{"model_type": 3}', "known families: deepseek_vl_v2, gemma3"),
        ('{"model_type": "../llava"}', "known families: deepseek_vl_v2, gemma3"),
        ('{"model_type": "llava", "vision_config": {"model_type": "vit"}}', "vision_config.model_type is 'vit'"),
        (
            '{"model_type": "gemma3", "vision_config": {"model_type": "siglip_vision_model", "hidden_size": -3}}',
            "vision_config.hidden_size is -3",
        ),
        ("[" * 100_000, "no configuration"),
        ('{"model_type": ' + "9" * 5000 + "}", "no configuration"),
    ],
)
def test_a_bad_file_is_one_clear_line(text_: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text_, encoding="utf-8")
    with pytest.raises(AtlasError) as refused:
        drafted(path, None, "mine")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_name_that_a_file_gives_itself_becomes_the_id_and_nothing_else(tmp_path: Path) -> None:
    config = {**llava(MODELS["llava-1.5-7b"])[0], "_name_or_path": "owner/My_Model-7B"}
    draft = drafted(written(tmp_path, config, {})[0])
    assert draft.record["id"] == "my-model-7b"
    assert any("_name_or_path" in note for note in draft.notes)
    assert {"name", "hf_id"} <= {line.partition(": ")[0] for line in draft.open}


def test_a_configuration_without_a_name_is_drafted_under_its_familys(tmp_path: Path) -> None:
    draft = drafted(written(tmp_path, llava(MODELS["llava-1.5-7b"])[0], {})[0])
    assert draft.record["id"] == "llava-draft"
    assert any("names no model" in note for note in draft.notes)


def test_a_missing_file_and_a_bad_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="cannot be read"):
        drafted(tmp_path / "none.json", None, "mine")
    path = written(tmp_path, llava(MODELS["llava-1.5-7b"])[0], {})[0]
    with pytest.raises(AtlasError, match="is no id"):
        drafted(path, None, "../evil")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_config": {"model_name": "deeplip_b"}}, "model_name is 'deeplip_b', which is not known"),
        ({"projector_config": {"projector_type": "linear"}}, "only downsample_mlp_gelu"),
        ({"candidate_resolutions": [[384, 384], [768, 768]]}, "not all canvases of 4 tiles"),
        ({"candidate_resolutions": "many"}, "must list sides"),
        ({"candidate_resolutions": [[384]]}, "no pair of sides"),
    ],
)
def test_what_deepseek_vl2_has_otherwise_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config, _ = deepseek_vl_v2(MODELS["deepseek-vl2-tiny"])
    with pytest.raises(AtlasError, match=message):
        drafted(written(tmp_path, {**config, **change}, {})[0], None, "mine")


DEEPSEEK_OCR = {
    "model_type": "deepseek_vl_v2", "torch_dtype": "bfloat16", "candidate_resolutions": [[1024, 1024]],
    "language_config": {
        "vocab_size": 129280, "hidden_size": 1280, "intermediate_size": 6848, "moe_intermediate_size": 896,
        "num_hidden_layers": 12, "num_attention_heads": 10, "num_key_value_heads": 10, "n_routed_experts": 64,
        "num_experts_per_tok": 6, "n_shared_experts": 2, "first_k_dense_replace": 1, "max_position_embeddings": 8192,
        "use_mla": False, "kv_lora_rank": None, "q_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0,
        "v_head_dim": 0, "topk_method": "greedy",
    },
    "projector_config": {"input_dim": 2048, "n_embed": 1280, "projector_type": "linear"},
    "vision_config": {
        "image_size": 1024, "mlp_ratio": 3.7362, "model_name": "deeplip_b_l",
        "width": {
            "clip-l-14-224": {"heads": 16, "image_size": 224, "layers": 24, "patch_size": 14, "width": 1024},
            "sam_vit_b": {
                "downsample_channels": [512, 1024], "global_attn_indexes": [2, 5, 8, 11], "heads": 12, "layers": 12,
                "width": 768,
            },
        },
    },
}  # fmt: skip
"""The published configuration."""


def test_deepseek_ocr_has_as_many_parameters_as_its_index_counts_bytes(tmp_path: Path) -> None:
    """Public code gives the `total_size` of its model.safetensors.index.json, all in 16 bits."""
    record = drafted(written(tmp_path, DEEPSEEK_OCR, {})[0], None, "mine").record
    assert 2 * record["params"]["total"] == 6_672_212_480
    assert record["vision"]["front"]["full_attention_layers"] == [2, 5, 8, 11]
    other = {**DEEPSEEK_OCR, "projector_config": {"input_dim": 2048, "n_embed": 1280}}
    with pytest.raises(AtlasError, match="projector_type is ''; only linear is known"):
        drafted(written(tmp_path, other, {})[0], None, "mine")


def test_a_gate_without_correction_has_no_bias(tmp_path: Path) -> None:
    model = MODELS["deepseek-vl2-tiny"]
    config, _ = deepseek_vl_v2(model)
    config["language_config"]["topk_method"] = "greedy"
    record = drafted(written(tmp_path, config, {})[0], None, "mine").record
    assert model.llm.experts is not None
    routers = model.llm.layers - model.llm.experts.dense_layers
    assert record["params"]["llm"] == model.params.llm - routers * model.llm.experts.routed
