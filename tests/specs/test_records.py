"""Records reach the engine unchanged in meaning: units, layers, token rules, and shapes that add up."""

from __future__ import annotations

import pytest

from lvlm_atlas.atlas.loader import load
from lvlm_atlas.roofline.model import Llm
from lvlm_atlas.roofline.tokens import rule
from lvlm_atlas.roofline.tokens.sampling import sampled_frames
from lvlm_atlas.roofline.visual import Visual
from lvlm_atlas.roofline.workload import Video, Workload
from lvlm_atlas.specs.records import device_spec, model_spec, workload_spec

ATLAS = load()
MODELS = sorted(ATLAS.models)

POSITION_ROWS = {
    "minicpm-v-2.6": 70 * 70, "llama-3.2-11b-vision": 9 * 4 * 1601, "kimi-k2.5": 64 * 64,
    "gemma-4-31b": 2 * 10_240, "gemma-4-26b-a4b": 2 * 10_240,
    "gemma-4-e2b": 2 * 10_240, "gemma-4-e4b": 2 * 10_240, "deepseek-ocr": 257 + 64 * 64 * 768 // 1024,
}  # fmt: skip
"""Rows of learned positions that the size of a tile does not tell: Llama has a table for each arrangement of tiles."""

KV_BYTE = {
    "deepseek-vl2": 34560, "deepseek-vl2-small": 31104, "deepseek-vl2-tiny": 61440, "gemma-3-12b": 393216,
    "deepseek-ocr": 61440,
    "internvl2.5-8b": 131072, "internvl3-78b": 327680, "internvl3-8b": 57344, "internvl3.5-8b": 147456,
    "llama-3.2-11b-vision": 131072, "llava-1.5-13b": 819200, "llava-1.5-7b": 524288,
    "llava-next-7b-mistral": 131072, "llava-next-7b-vicuna": 524288, "llava-onevision-7b": 57344,
    "minicpm-v-2.6": 57344, "nvila-8b": 57344, "phi-3.5-vision": 393216, "qwen2-vl-7b": 57344,
    "qwen2.5-vl-32b": 262144, "qwen2.5-vl-3b": 36864, "qwen2.5-vl-72b": 327680, "qwen2.5-vl-7b": 57344,
    "qwen3-vl-235b-a22b": 192512, "qwen3-vl-30b-a3b": 98304, "qwen3-vl-8b": 147456, "smolvlm-2.2b": 196608,
    "glm-4.1v-9b": 40960, "internvl3.5-2b": 114688, "internvl3.5-30b-a3b": 98304, "internvl3.5-38b": 262144,
    "gemma-4-26b-a4b": 225280, "gemma-4-31b": 901120, "gemma-4-e2b": 18432, "gemma-4-e4b": 57344,
    "kimi-k2.5": 70272, "llama-4-maverick": 196608, "llama-4-scout": 196608, "mistral-small-3.1-24b": 163840,
    "qwen3-omni-30b-a3b": 98304, "qwen3-vl-2b": 114688, "qwen3-vl-32b": 262144, "qwen3-vl-4b": 147456,
    "qwen3.5-122b-a10b": 24576, "qwen3.5-27b": 65536, "qwen3.5-35b-a3b": 20480, "qwen3.5-397b-a17b": 30720,
}  # fmt: skip
"""Bytes that a text token takes in the caches of all layers, in 16 bits."""


def attention(llm: Llm) -> int:
    """Parameters of the projections of one layer."""
    if llm.latent is None:
        return llm.hidden * llm.head_dim * ((3 if llm.output_gate else 2) * llm.heads + 2 * llm.kv_heads)
    mla = llm.latent
    query = llm.heads * (mla.nope_dim + mla.rope_dim)
    query = mla.q_lora_rank * (llm.hidden + query) if mla.q_lora_rank else llm.hidden * query
    down = llm.hidden * (mla.kv_lora_rank + mla.rope_dim)
    up = mla.kv_lora_rank * llm.heads * (mla.nope_dim + mla.v_dim)
    return query + down + up + llm.heads * mla.v_dim * llm.hidden


def attentions(llm: Llm) -> int:
    """Parameters of the projections of all layers."""
    linear, apart = llm.linear, llm.global_heads
    if apart:
        wide = llm.hidden * apart.head_dim * (2 * llm.heads + apart.projections * apart.kv_heads)
        without = [layer in llm.local_layers for layer in range(llm.layers - llm.borrowing_layers, llm.layers)]
        narrow_keys, wide_keys = llm.kv_heads * llm.head_dim, apart.kv_heads * apart.head_dim
        lacking = sum(2 * narrow_keys if local else apart.projections * wide_keys for local in without) * llm.hidden
        return len(llm.local_layers) * attention(llm) + (llm.layers - len(llm.local_layers)) * wide - lacking
    if linear is None:
        return llm.layers * attention(llm)
    keys, values = linear.key_heads * linear.key_dim, linear.value_heads * linear.value_dim
    state = llm.hidden * (2 * keys + 3 * values + 2 * linear.value_heads)
    return len(linear.layers) * state + (llm.layers - len(linear.layers)) * attention(llm)


def mlps(llm: Llm, per_token: bool = False) -> int:
    """Parameters of the MLPs of all layers, or of those that one token uses."""
    dense = 3 * llm.hidden * llm.intermediate
    if llm.experts is None:
        more = 3 * llm.hidden * ((llm.borrowing_intermediate or llm.intermediate) - llm.intermediate)
        inputs = llm.layer_input * (llm.layer_vocab + 3 * llm.hidden)
        return llm.layers * (dense + inputs) + llm.borrowing_layers * more
    mix = llm.experts
    experts = (mix.top_k if per_token else mix.routed) + mix.shared
    sparse = 3 * llm.hidden * mix.intermediate * experts + mix.routed * llm.hidden
    mixed = llm.layers // mix.step - mix.dense_layers // mix.step
    return (llm.layers - mixed) * dense + mixed * sparse


@pytest.mark.parametrize("id_", MODELS)
def test_the_matrices_of_the_encoder_make_up_its_parameters(id_: str) -> None:
    spec, vision = model_spec(ATLAS.models[id_]).encoder, ATLAS.models[id_].vision
    width = spec.heads * spec.head_dim
    layer = 4 * spec.hidden * width + (3 if spec.gated_mlp else 2) * spec.hidden * spec.mlp
    embedding = 3 * spec.patch_size**2 * spec.temporal_patch_size * spec.hidden
    if front := spec.front:
        embedding = (
            3 * front.patch_size**2 * front.hidden + front.layers * (4 * front.hidden + 2 * front.mlp) * front.hidden
        )
        embedding += sum(each.kernel**2 * each.into * each.out for each in front.convolutions)
    rows = POSITION_ROWS.get(id_, (vision.image_size // spec.patch_size) ** 2 if vision.image_size else 0)
    assert spec.layers * layer + embedding + rows * spec.hidden == pytest.approx(spec.parameters, rel=0.01)


@pytest.mark.parametrize("id_", MODELS)
def test_the_matrices_of_the_adapter_make_up_its_parameters(id_: str) -> None:
    spec = model_spec(ATLAS.models[id_]).adapter
    pairs = list(zip(spec.widths, spec.widths[1:], strict=False))
    if spec.queries:  # input, four projections of the attention, output; the queries themselves
        width = spec.widths[-1]
        matrices = spec.widths[0] * width + 5 * width**2 + spec.queries * width
    else:
        gate = spec.widths[-3] * spec.widths[-2] if spec.gated else 0
        gate += 2 * spec.widths[0] * spec.widths[1] + spec.widths[1] ** 2 if spec.pools_by_attention else 0
        matrices = spec.copies * (gate + sum(before * after for before, after in pairs))
    assert matrices == pytest.approx(spec.parameters, rel=0.01)


@pytest.mark.parametrize("id_", MODELS)
def test_the_matrices_of_the_language_model_make_up_its_parameters(id_: str) -> None:
    llm, params = model_spec(ATLAS.models[id_]).llm, ATLAS.models[id_].params
    embeddings = (1 if ATLAS.models[id_].llm.tied_embeddings else 2) * llm.vocab * llm.hidden
    assert attentions(llm) + mlps(llm) + embeddings == pytest.approx(llm.parameters, rel=0.001)
    assert (params.llm_active is None) == (llm.experts is None)
    if params.llm_active:
        active = attentions(llm) + mlps(llm, per_token=True) + embeddings
        assert active == pytest.approx(params.llm_active, rel=0.001)


def test_every_model_has_a_known_cache() -> None:
    assert sorted(KV_BYTE) == MODELS


@pytest.mark.parametrize("id_", MODELS)
def test_a_token_takes_the_known_bytes_of_cache(id_: str) -> None:
    llm = model_spec(ATLAS.models[id_]).llm
    values = llm.latent.kv_lora_rank + llm.latent.rope_dim if llm.latent else 2 * llm.kv_heads * llm.head_dim  # a layer
    if llm.global_heads:
        wide = llm.global_heads.kv_heads * llm.global_heads.head_dim
        layers = llm.layers - llm.borrowing_layers
        local = len(llm.local_layers & set(range(layers)))
        assert 4 * (local * llm.kv_heads * llm.head_dim + (layers - local) * wide) == KV_BYTE[id_]
        return
    without = len(llm.cross_layers) + (len(llm.linear.layers) if llm.linear else 0)
    assert 2 * (llm.layers - without) * values == KV_BYTE[id_]


@pytest.mark.parametrize("id_", MODELS)
def test_a_traced_checkpoint_has_the_counted_parameters(id_: str) -> None:
    record, spec = ATLAS.models[id_], model_spec(ATLAS.models[id_])
    if record.traced is None:
        return
    vision = spec.encoder.parameters + (spec.adapter.parameters if record.traced.vision_includes_adapter else 0)
    assert vision == pytest.approx(record.traced.vision_params, rel=1e-4)
    assert spec.parameters == pytest.approx(record.traced.total_params, rel=1e-2)


def test_the_layers_that_are_not_global_are_local() -> None:
    llm = model_spec(ATLAS.model("gemma-3-12b")).llm
    assert llm.window == 1024
    assert len(llm.local_layers) == 40
    assert not llm.local_layers & {5, 11, 17, 23, 29, 35, 41, 47}


def test_a_model_without_windows_has_none() -> None:
    spec = model_spec(ATLAS.model("llava-1.5-7b"))
    assert (spec.encoder.full_attention_layers, spec.llm.window, spec.llm.local_layers) == (None, None, frozenset())
    assert spec.tokens.video is None


def test_the_ridge_of_the_a100_is_the_survey_s() -> None:
    spec = device_spec(ATLAS.device("a100"))
    assert spec.ridge("fp16") == pytest.approx(153, abs=0.1)
    assert (spec.link_byte_s, spec.host_link_byte_s, spec.memory_byte) == (300e9, 32e9, 79.25 * 2**30)
    assert "fp8" not in spec.peak_flop_s


def test_a_device_without_a_link_has_none() -> None:
    spec = device_spec(ATLAS.device("orin"))
    assert (spec.link_byte_s, spec.host_link_byte_s) == (None, None)


@pytest.mark.parametrize("id_", sorted(ATLAS.hardware))
def test_every_device_has_a_peak_for_16_bits(id_: str) -> None:
    assert {"fp16", "bf16"} & set(device_spec(ATLAS.hardware[id_]).peak_flop_s)


def test_a_workload_keeps_its_defaults() -> None:
    assert workload_spec(ATLAS.workload("video-60s")) == Workload(
        id="video-60s", videos=(Video(1280, 720, 60, 2, 30),), text_tokens=128, output_tokens=256
    )


def visual(model: str, workload: str) -> Visual:
    """What a model makes of the one image size or the one video of a workload."""
    tokens, spec = model_spec(ATLAS.model(model)).tokens, workload_spec(ATLAS.workload(workload))
    if spec.images:
        (image,) = spec.images
        return rule(tokens.image)([(image.width, image.height)] * image.count, **tokens.image_params)
    (video,) = spec.videos
    params = dict(tokens.video_params)
    limits = {key: params.pop(key) for key in ("min_frames", "max_frames", "multiple")}
    frames = sampled_frames(video.duration_s, sample_fps=video.sample_fps, source_fps=video.source_fps, **limits)
    assert tokens.video
    return rule(tokens.video)(video.width, video.height, frames, **params)


def test_the_survey_s_footnote_comes_out_as_its_workloads_read_it() -> None:
    assert visual("qwen2.5-vl-72b", "survey-20-images").llm_token == 40_000
    assert visual("qwen2.5-vl-72b", "survey-video-5s").llm_token == 54_000
    assert 54_000 * KV_BYTE["qwen2.5-vl-72b"] == pytest.approx(17.7e9, rel=1e-2)


def test_the_workloads_of_common_size_stay_below_the_footnote() -> None:
    assert visual("qwen2.5-vl-72b", "images-20").llm_token == 23_920
    assert visual("qwen2.5-vl-72b", "video-5s").llm_token == 3_600


@pytest.mark.parametrize("id_", [id_ for id_ in MODELS if ATLAS.models[id_].tokens.video])
@pytest.mark.parametrize("workload", [id_ for id_ in sorted(ATLAS.workloads) if ATLAS.workloads[id_].videos])
def test_every_video_of_the_catalog_can_be_shown_to_every_model_that_takes_video(id_: str, workload: str) -> None:
    assert visual(id_, workload).llm_token > 0


def test_a_device_holds_what_software_finds_of_its_memory() -> None:
    """79.11 GiB of an H100 are 84.9 GB: more than 80 GB, and less than 80 GiB."""
    spec = device_spec(ATLAS.device("h100"))
    assert spec.memory_byte == 79.11 * 2**30
    assert 80e9 < spec.memory_byte < 80 * 2**30
    assert "27508" in spec.memory_source


def test_where_nobody_read_it_a_device_holds_the_vendors_figure() -> None:
    record = ATLAS.device("h100").model_copy(update={"visible_memory": None})
    spec = device_spec(record)
    assert (spec.memory_byte, spec.memory_source) == (80e9, "")


def test_servers_keep_three_and_a_half_gibibytes() -> None:
    assert {device_spec(each).typical.reserve_byte for each in ATLAS.hardware.values()} == {3.5 * 2**30, 3.758e9}
