"""Facts that hold exactly, each worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.model import Adapter
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.transform import Applied, Change
from lvlm_atlas.roofline.weights import parameters_by_part
from lvlm_atlas.roofline.workload import Image, Workload

STEP = Workload(text_tokens=1000, output_tokens=2)
"""A prompt of text and one decoding step."""
KV_BYTE_A_TOKEN = {
    "llava-1.5-7b": 524_288,
    "llava-1.5-13b": 819_200,
    "llava-next-7b-vicuna": 524_288,
    "llava-next-7b-mistral": 131_072,
    "llava-onevision-7b": 57_344,
    "qwen2-vl-7b": 57_344,
    "qwen2.5-vl-3b": 36_864,
    "qwen2.5-vl-7b": 57_344,
    "qwen2.5-vl-32b": 262_144,
    "qwen2.5-vl-72b": 327_680,
    "qwen3-vl-8b": 147_456,
    "qwen3-vl-30b-a3b": 98_304,  # 2 · 48 layers · 4 heads · 128 · 2 bytes; hidden / heads would be 64
    "qwen3-vl-235b-a22b": 192_512,
    "internvl2.5-8b": 131_072,
    "internvl3-8b": 57_344,
    "internvl3.5-8b": 147_456,
    "internvl3-78b": 327_680,
    "llama-3.2-11b-vision": 131_072,  # of text, which 32 of 40 layers cache
    "minicpm-v-2.6": 57_344,
    "deepseek-vl2": 34_560,  # 30 layers · (512 + 64) · 2 bytes, for all heads
    "deepseek-vl2-small": 31_104,
    "deepseek-vl2-tiny": 61_440,
    "gemma-3-12b": 393_216,  # before the windows are full
    "phi-3.5-vision": 393_216,
    "smolvlm-2.2b": 196_608,
    "nvila-8b": 57_344,
    "glm-4.1v-9b": 40_960,
    "mistral-small-3.1-24b": 163_840,
    "llama-4-scout": 196_608,  # before the windows are full
    "llama-4-maverick": 196_608,
    "kimi-k2.5": 70_272,  # 61 layers · (512 + 64) · 2 bytes, for all heads
    "qwen3-omni-30b-a3b": 98_304,
    "gemma-4-31b": 901_120,  # 2 · (50 · 16 · 256 + 10 · 4 · 512) · 2 bytes, before the windows are full
    "gemma-4-26b-a4b": 225_280,
}
HYBRID = {
    # 16 of 64 layers · 2 · 4 heads · 256 · 2 bytes; 48 · (48 · 128² · 4 + (2 · 16 + 48) · 128 · 3 · 2) bytes
    "qwen3.5-27b": (65_536, 153_944_064),
    "qwen3.5-35b-a3b": (20_480, 64_389_120),
}
"""Bytes of a token in the cache and of the states beside it, of models with layers of linear attention."""
EXPERTS = ["qwen3-vl-30b-a3b", "qwen3-vl-235b-a22b", "deepseek-vl2", "deepseek-vl2-small", "deepseek-vl2-tiny"]


def works(found: Estimate, stage: str, kind: str | None = None) -> list[Work]:
    """What a stage does, or what it does of a kind."""
    return [each.work for each in found.stages[stage].operators if kind in (None, each.work.kind)]


def kv_byte(planner: Planner, model: str, tokens: int) -> float:
    """Bytes of the cache after a prompt of text."""
    request = Workload(text_tokens=tokens, output_tokens=1)
    return planner.estimate(model, "h200", request).memory.kv_byte


def test_every_model_of_the_catalog_is_here(planner: Planner) -> None:
    assert set(planner.kb.atlas.models) >= set(KV_BYTE_A_TOKEN)


@pytest.mark.parametrize("model", KV_BYTE_A_TOKEN)
def test_a_token_takes_its_published_bytes_in_the_cache(planner: Planner, model: str) -> None:
    assert kv_byte(planner, model, 700) == 700 * KV_BYTE_A_TOKEN[model]


@pytest.mark.parametrize("model", HYBRID)
def test_layers_of_linear_attention_keep_a_state_of_constant_size(planner: Planner, model: str) -> None:
    token, state = HYBRID[model]
    for tokens in (1, 700, 100_000):
        assert kv_byte(planner, model, tokens) == token * tokens + state


def test_a_step_reads_and_writes_the_states_whatever_the_length(planner: Planner) -> None:
    moved = set()
    for tokens in (10, 10_000):
        request = Workload(text_tokens=tokens, output_tokens=2)
        (step,) = (
            work
            for work in works(planner.estimate("qwen3.5-27b", "h200", request), "decoding")
            if work.name == "llm.linear_attention"
        )
        assert step.kv_byte == HYBRID["qwen3.5-27b"][1]
        assert step.activation_byte > step.kv_byte
        moved.add((step.flop, step.byte))
    assert len(moved) == 1


@pytest.mark.parametrize("tokens", [1, 1024, 100_000])
def test_gemma_4_caches_all_tokens_in_heads_of_their_own(planner: Planner, tokens: int) -> None:
    assert kv_byte(planner, "gemma-4-31b", tokens) == 81_920 * tokens + 819_200 * min(tokens, 1024)


SHARED = {
    # 3 of 15 layers with caches · 2 · 512 · 2 bytes; 12 · 2 · 256 · 2 bytes, before the windows are full
    "gemma-4-e2b": (6_144, 12_288),
    "gemma-4-e4b": (16_384, 40_960),
}
"""Bytes of a token in the layers that see everything, and in those that look back 512 tokens, of Gemma-4's models whose
last layers use the caches of others."""


@pytest.mark.parametrize("model", SHARED)
@pytest.mark.parametrize("tokens", [1, 512, 100_000])
def test_the_last_layers_of_gemma_4_s_small_models_keep_no_cache(planner: Planner, model: str, tokens: int) -> None:
    whole, window = SHARED[model]
    assert kv_byte(planner, model, tokens) == whole * tokens + window * min(tokens, 512)


def test_layers_that_use_the_cache_of_another_read_it_and_project_queries_alone(planner: Planner) -> None:
    found = planner.estimate("gemma-4-e2b", "h200", replace(STEP, text_tokens=100))
    step = {name: [each for each in works(found, "decoding") if each.name == name]
            for name in ("llm.attention", "llm.query", "llm.key_value", "llm.mlp_down", "llm.layer_input")}  # fmt: skip
    local, whole = 1024 * 101, 2048 * 101
    assert sum(each.kv_byte for each in step["llm.attention"]) == 28 * local + 7 * whole
    hidden = 1536
    assert sum(each.flop for each in step["llm.query"]) == 2 * hidden * 8 * (28 * 256 + 7 * 512)
    assert sum(each.flop for each in step["llm.key_value"]) == 2 * hidden * 2 * (12 * 256 + 3 * 512)
    assert sum(each.flop for each in step["llm.mlp_down"]) == 2 * hidden * (15 * 6144 + 20 * 12288)
    assert sum(each.flop for each in step["llm.layer_input"]) == 2 * hidden * 35 * 2 * 256


def test_matrices_of_layers_that_differ_are_quantised_like_the_others(planner: Planner) -> None:
    """Norms, biases, convolutions and routers are what stays beside the matrices."""
    for model in ("gemma-4-e2b", "gemma-4-31b", "qwen3.5-27b", "llama-4-maverick", "qwen3-vl-8b"):
        spec = planner.model(model)
        assert parameters_by_part(spec)["other"] < 0.001 * spec.llm.parameters, model


@pytest.mark.parametrize("tokens", [1, 512, 1023, 1024, 1025, 8192, 100_000])
def test_gemma_caches_all_tokens_in_8_layers_and_1024_at_most_in_40(planner: Planner, tokens: int) -> None:
    assert kv_byte(planner, "gemma-3-12b", tokens) == 65_536 * tokens + 327_680 * min(tokens, 1024)


def test_vision_tokens_fill_the_cross_attention_layers_alone_in_llama_3_2(planner: Planner) -> None:
    request = Workload(images=(Image(560, 560, 2),), text_tokens=50, output_tokens=2)
    found = planner.estimate("llama-3.2-11b-vision", "h200", request)
    state = found.state
    assert found.memory.kv_vision_byte == 32_768 * state.visual.cross_token
    assert found.memory.kv_byte - found.memory.kv_vision_byte == 131_072 * (state.encoded.text + state.encoded.marker)
    assert state.cached.vision.count(0) == 32
    assert state.cached.text.count(0) == 8


@pytest.mark.parametrize("model", KV_BYTE_A_TOKEN)
@pytest.mark.parametrize(("bits", "intensity"), [("bf16", 1), ("int8", 2), ("int4", 4)])
def test_a_step_does_two_flops_for_each_weight_it_reads(
    planner: Planner, model: str, bits: str, intensity: float
) -> None:
    deployment = Deployment(weight_dtype=bits, activation_dtype="bf16")
    linear = works(planner.estimate(model, "h200", STEP, deployment=deployment), "decoding", "linear")
    assert sum(work.flop for work in linear) / sum(work.weight_byte for work in linear) == pytest.approx(
        intensity, rel=1e-12
    )


@pytest.mark.parametrize("model", [*KV_BYTE_A_TOKEN, *HYBRID])
def test_a_step_reads_the_active_parameters_but_for_the_embedding(planner: Planner, model: str) -> None:
    """Norms and biases, which the engine leaves out, are what is missing, and never 0.1 %."""
    llm, record = planner.model(model).llm, planner.kb.atlas.models[model]
    active = record.params.llm_active or llm.parameters
    embedding = 0 if record.llm.tied_embeddings else llm.vocab * llm.hidden
    # Keys and values of vision tokens are in the cache by then.
    idle = 2 * len(llm.cross_layers) * llm.hidden * llm.kv_heads * llm.head_dim
    # Without an image, layers of cross-attention are skipped.
    shown = replace(STEP, images=(Image(560, 560),))
    linear = works(planner.estimate(model, "h200", shown), "decoding", "linear")
    assert sum(work.weight_byte for work in linear) / 2 == pytest.approx(active - embedding - idle, rel=1e-3)
    assert sum(work.flop for work in linear) / 2 == pytest.approx(active - embedding - idle, rel=1e-3)


@pytest.mark.parametrize("model", EXPERTS)
def test_a_large_batch_reads_all_experts_and_computes_a_few(planner: Planner, model: str) -> None:
    llm = planner.model(model).llm
    assert llm.experts
    found = planner.estimate(model, "h200", replace(STEP, batch=4096))
    experts = [work for work in works(found, "decoding") if work.name.startswith("llm.experts")]
    layers, one = llm.layers - llm.experts.dense_layers, 3 * llm.hidden * llm.experts.intermediate
    read = layers * (llm.experts.routed + llm.experts.shared) * one
    used = layers * (llm.experts.top_k + llm.experts.shared) * one
    assert sum(work.weight_byte for work in experts) == pytest.approx(2 * read, rel=1e-9)
    assert sum(work.flop for work in experts) == pytest.approx(2 * 4096 * used, rel=1e-12)


@pytest.mark.parametrize("stage", ["prefilling", "decoding"])
def test_key_value_heads_change_what_is_cached_and_read_and_not_what_attention_computes(
    planner: Planner, stage: str
) -> None:
    model = planner.model("qwen2.5-vl-7b")
    more = replace(model, llm=replace(model.llm, kv_heads=2 * model.llm.kv_heads))
    few, many = (planner.estimate(each, "h200", STEP) for each in (model, more))
    assert many.memory.kv_byte == 2 * few.memory.kv_byte

    def sums(found: Estimate, what: str) -> float:
        return sum(getattr(work, what) for work in works(found, stage, "attention"))

    assert sums(many, "flop") == sums(few, "flop")
    assert sums(many, "kv_byte") == 2 * sums(few, "kv_byte")
    assert sums(many, "byte") > sums(few, "byte")


@pytest.mark.parametrize("model", ["qwen2.5-vl-7b", "deepseek-vl2", "internvl3.5-8b"])
def test_fused_attention_moves_bytes_on_a_line_and_materialised_on_a_parabola(planner: Planner, model: str) -> None:
    def byte(tokens: int, kernel: Deployment) -> float:
        request = Workload(text_tokens=tokens, output_tokens=1)
        return sum(work.byte for work in works(planner.estimate(model, "h200", request, deployment=kernel),
                                               "prefilling", "attention"))  # fmt: skip

    llm, fused, materialised = planner.model(model).llm, Deployment(), Deployment(attention="materialised")
    assert byte(3000, fused) == 3 * byte(1000, fused)
    # Scores and weights are written and read: four times 16 bits for each of them.
    scores = 4 * 2 * llm.layers * llm.heads
    for n in (1000, 3000):
        assert byte(n, materialised) - byte(n, fused) == pytest.approx(scores * n**2, rel=1e-12)


def test_causal_attention_computes_half_the_square_and_the_diagonal(planner: Planner) -> None:
    request, llm = Workload(text_tokens=1000, output_tokens=1), planner.model("qwen2.5-vl-7b").llm
    fused, square = (
        planner.estimate("qwen2.5-vl-7b", "h200", request, deployment=Deployment(attention=each)).flop["attention"]
        for each in ("fused", "materialised")
    )
    assert fused == 4 * llm.layers * llm.heads * llm.head_dim * 1000 * 1001 / 2
    assert square == 4 * llm.layers * llm.heads * llm.head_dim * 1000**2


def test_a_sliding_window_computes_its_own_keys_alone(planner: Planner) -> None:
    llm = planner.model("gemma-3-12b").llm
    found = planner.estimate("gemma-3-12b", "h200", Workload(text_tokens=3000, output_tokens=1))
    pairs = sum(8 * n + 40 * min(n, 1024) for n in range(1, 3001))
    assert found.flop["attention"] == 4 * llm.heads * llm.head_dim * pairs


def test_cross_attention_sees_the_vision_tokens_and_the_other_layers_the_text(planner: Planner) -> None:
    request = Workload(images=(Image(560, 560),), text_tokens=100, output_tokens=2)
    found = planner.estimate("llama-3.2-11b-vision", "h200", request)
    llm, made = planner.model("llama-3.2-11b-vision").llm, found.state.visual
    text, width = 100 + made.llm_token, 4 * llm.heads * llm.head_dim
    prompt, step = (sum(work.flop for work in works(found, stage, "attention")) for stage in ("prefilling", "decoding"))
    assert prompt == width * (32 * text * (text + 1) / 2 + 8 * text * made.cross_token)
    assert step == width * (32 * (text + 1) + 8 * made.cross_token)


def test_latent_attention_reads_latents_and_pays_for_it_in_flops(planner: Planner) -> None:
    """Absorbed: each query of a head meets latent and rotary key (576 wide), and weights latents (512)."""
    llm = planner.model("deepseek-vl2").llm
    all_ = works(planner.estimate("deepseek-vl2", "h200", STEP), "decoding", "attention")
    assert sum(each.flop for each in all_) == 2 * llm.layers * llm.heads * (576 + 512) * 1001
    assert sum(each.kv_byte for each in all_) == 34_560 * 1001


def test_the_width_of_a_head_does_not_follow_the_hidden_width(planner: Planner) -> None:
    model = planner.model("qwen3-vl-30b-a3b")
    assert model.llm.heads * model.llm.head_dim == 2 * model.llm.hidden
    linear = works(planner.estimate(model, "h200", STEP), "decoding", "linear")
    query = next(work for work in linear if work.name == "llm.query")
    assert query.flop == 2 * 48 * 2048 * 32 * 128


@pytest.mark.parametrize("model", [*KV_BYTE_A_TOKEN, *HYBRID, *SHARED])
def test_a_request_reads_every_published_parameter_once(planner: Planner, model: str) -> None:
    """Norms, biases and learned positions are what is missing; those of Llama 3.2's tiles and of Gemma-4 are many."""
    request = Workload(images=(Image(448, 448),), text_tokens=5, output_tokens=1)
    found, spec = planner.estimate(model, "h200", request), planner.model(model)
    read = {part: sum(work.weight_byte for stage in ("encoding", "prefilling") for work in works(found, stage)
                      if work.name.startswith(part)) / 2 for part in ("encoder", "adapter")}  # fmt: skip
    least = 0.9 if model.startswith(("llama", "gemma-4")) else 0.985
    assert least <= read["encoder"] / spec.encoder.parameters <= 1
    assert read["adapter"] == pytest.approx(spec.adapter.parameters, rel=0.005)


def test_attention_that_pools_projects_every_patch_and_asks_once_a_token(planner: Planner) -> None:
    """Molmo2's adapter: the mean of four patches attends to them, and a gated MLP follows."""
    widths = (2304, 1152, 12_288, 3584)
    adapter = Adapter(widths=widths, merge=4, gated=True, pools_by_attention=True, parameters=1)
    model = replace(planner.model("qwen2.5-vl-7b"), adapter=adapter)
    found = estimate(model, planner.device("h200"), Workload(images=(Image(448, 448),), text_tokens=5, output_tokens=1))
    flops = {each.name: each.flop for each in works(found, "encoding") if each.name.startswith("adapter")}
    token = 256
    assert flops == {
        "adapter.query": 2 * token * 2304 * 1152, "adapter.key_value": 2 * 4 * token * 2304 * 2 * 1152,
        "adapter.attention": 4 * 4 * token * 1152, "adapter.output": 2 * token * 1152**2,
        "adapter.linear_1": 2 * 2 * token * 1152 * 12_288, "adapter.linear_2": 2 * token * 12_288 * 3584,
    }  # fmt: skip


def test_a_smaller_encoder_in_front_runs_on_all_patches_and_hands_on_a_sixteenth(planner: Planner) -> None:
    """DeepSeek-OCR on 640 x 640: SAM sees 64 x 64 patches, in 8 of 12 layers as 5 x 5 windows of 14 x 14; CLIP 257."""
    request = Workload(images=(Image(640, 640),), text_tokens=5, output_tokens=1)
    found = planner.estimate("deepseek-ocr", "h200", request)
    flop: dict[str, float] = {}
    for each in works(found, "encoding"):
        flop[each.name] = flop.get(each.name, 0.0) + each.flop
    assert flop["encoder.patch_embedding"] == 2 * 4096 * 768 * 768
    assert flop["encoder.qkv"] == 2 * 768 * 2304 * (4 * 4096 + 8 * 4900) + 24 * 2 * 257 * 1024 * 3072
    assert flop["encoder.attention"] == 4 * 4 * 4096**2 * 768 + 24 * 4 * 257**2 * 1024
    assert flop["encoder.window_attention"] == 8 * 4 * 25 * 196**2 * 768
    assert flop["encoder.mlp_up"] == 12 * 2 * 4096 * 768 * 3072 + 24 * 2 * 257 * 1024 * 4096
    kernels = 4096 * (768 * 256 + 9 * 256 * 256) + 1024 * 9 * 256 * 512 + 256 * 9 * 512 * 1024
    assert flop["encoder.convolution"] == 2 * kernels
    assert flop["adapter.linear_0"] == 2 * 256 * 2048 * 1280


def test_a_step_reads_what_stays_and_what_is_fetched(planner: Planner) -> None:
    away = Change(quantity="kv.resident", order=0, how="set", amount=0.25, fetch=0.5)
    stack = (Applied(id="away", label="away", parameters={}, changes=(away,)),)
    model, device = planner.model("qwen2.5-vl-7b"), planner.device("h200")
    (all_,), (part,) = (
        works(estimate(model, device, STEP, None, each), "decoding", "attention") for each in ((), stack)
    )
    assert part.host_byte == all_.kv_byte / 2
    assert part.kv_byte == all_.kv_byte * 3 / 4
    assert part.flop == all_.flop * 3 / 4


def test_devices_that_cannot_split_the_encoder_hold_all_of_it(planner: Planner) -> None:
    """Qwen2.5-VL-7B has 28 query heads and its encoder 16: seven devices share the one and not the other."""
    model, one = planner.model("qwen2.5-vl-7b"), planner.estimate("qwen2.5-vl-7b", "h200", STEP).memory
    seven = planner.estimate(model, "h200", STEP, deployment=Deployment(tensor_parallel=7)).memory
    cache = one.kv_peak_byte / 4  # four key-value heads
    vision = 2 * (model.encoder.parameters + model.adapter.parameters)
    expected = 2 * model.llm.parameters / 7 + vision + cache + seven.activation_byte
    assert seven.device_byte == pytest.approx(expected, rel=1e-12)


def test_devices_that_share_the_encoder_exchange_its_hidden_states(planner: Planner) -> None:
    request = Workload(images=(Image(1288, 728),), text_tokens=10, output_tokens=1)
    found = planner.estimate("qwen2.5-vl-7b", "h200", request, deployment=Deployment(tensor_parallel=4))
    (link,) = works(found, "encoding", "link")
    # Two sums a layer by rings, each of which sends 2 (n - 1) / n of the hidden states.
    assert link.link_byte == 2 * 2 * 3 / 4 * 32 * 4784 * 1280 * 2


def test_devices_share_the_activation_and_each_runs_the_norms(planner: Planner) -> None:
    request = Workload(images=(Image(1280, 720),), output_tokens=1)

    def times(devices: int) -> dict[str, float]:
        deployment = Deployment(tensor_parallel=devices)
        found = planner.estimate("qwen2.5-vl-72b", "h200", request, deployment=deployment)
        every = [each for stage in found.stages.values() for each in stage.operators]
        return {name: sum(each.time_s for each in every if each.work.name == name) for name in names}

    names = [f"{part}.{what}" for part in ("encoder", "llm") for what in ("activation", "elementwise")]
    one, four = times(1), times(4)
    assert min(one.values()) > 0
    assert {name: one[name] / four[name] for name in names} == pytest.approx(
        {name: 4 if name.endswith("activation") else 1 for name in names}
    )


def test_a_draft_reads_what_its_share_of_a_plain_step_reads(planner: Planner) -> None:
    case = ("qwen2.5-vl-7b", "h200", "images-20")
    draft = "speculative-sampling:gamma=3,accepted=1,draft_cost=0.5"
    plain, drafted = planner.estimate(*case), planner.estimate(*case, stack=[draft])
    work = next(each for each in works(drafted, "decoding") if each.name == "technique: draft")
    # Half as many rounds as steps, three passes each, at half the cost of a step.
    for name in ("flop", "weight_byte", "activation_byte", "kv_byte", "vision_byte"):
        whole = sum(getattr(each, name) for each in works(plain, "decoding"))
        assert getattr(work, name) == pytest.approx(0.5 * 3 * 0.5 * whole)


def test_what_quantising_a_cache_does_to_layers_with_a_window_is_said(planner: Planner) -> None:
    request = Workload(text_tokens=5000, output_tokens=2)
    said = [
        each
        for each in planner.estimate("gemma-3-12b", "h200", request, stack="kivi").assumptions
        if "look back" in each
    ]
    assert said == [
        "The 40 layers that look back 1,024 tokens are quantised like the others; entries kept exact count within "
        "the window; software that leaves such layers whole caches more."
    ]
    for model, stack in (("gemma-3-12b", ""), ("qwen2.5-vl-7b", "kivi")):
        found = planner.estimate(model, "h200", request, stack=stack)
        assert not any("look back" in each for each in found.assumptions)
