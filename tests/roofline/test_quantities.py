"""What each quantity of the vocabulary costs, against figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment, Efficiency
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.transform import Applied, CacheBits, Change, Overhead
from lvlm_atlas.roofline.workload import Image, Workload

PLANNER = Planner()
MODEL, DEVICE = PLANNER.model("llava-1.5-7b"), PLANNER.device("a100-sxm-80")
LAYERS, HIDDEN, HEADS, HEAD_DIM, VISION, TEXT, OUTPUT = 32, 4096, 32, 128, 576, 64, 101
REQUEST = Workload(images=(Image(336, 336),), text_tokens=TEXT, output_tokens=OUTPUT)
ENTRY_BYTE = 2 * HEADS * HEAD_DIM * 2
FLOOR = Deployment(efficiency=Efficiency(name="custom", kernel_floor_s=1e-3))


def changing(quantity: str, how: Any, amount: Any, **rest: Any) -> Applied:
    change = Change(quantity=quantity, order=7, how=how, amount=amount, **rest)
    return Applied(id=quantity, label=quantity, parameters={}, changes=(change,))


def adding(**costs: Any) -> Applied:
    return Applied(id="adds", label="adds", parameters={}, overheads=(Overhead(**costs),))


def run(*stack: Applied, deployment: Deployment | None = None, workload: Workload = REQUEST) -> Estimate:
    return estimate(MODEL, DEVICE, workload, deployment, stack)


def total(found: Estimate, stage: str, field: str, *names: str) -> float:
    """A field of a stage's operators, summed over those named, or over all."""
    works = (each.work for each in found.stages[stage].operators)
    return float(sum(getattr(work, field) for work in works if not names or work.name in names))


PLAIN = run()


def test_vision_tokens_that_are_no_queries_are_projected_to_keys_and_values_all_the_same() -> None:
    found = run(changing("llm.vision-queries", "set", VISION // 4))
    queries = 2 * (VISION // 4 + TEXT) * HIDDEN * HIDDEN * LAYERS
    assert total(found, "prefilling", "flop", "llm.query") == queries
    assert total(found, "prefilling", "flop", "llm.attention_output") == queries
    for name in ("llm.key_value", "llm.mlp_up", "llm.mlp_down"):
        assert total(found, "prefilling", "flop", name) == total(PLAIN, "prefilling", "flop", name)
    length, lost = VISION + TEXT, VISION * (VISION + 1) / 2 * 3 / 4
    pairs = length * (length + 1) / 2 - lost
    assert total(found, "prefilling", "flop", "llm.attention") == 4 * pairs * HIDDEN * LAYERS
    assert found.memory.kv_byte == PLAIN.memory.kv_byte


def test_tokens_that_go_round_the_mlp_spare_it_alone() -> None:
    found = run(changing("llm.vision-mlp", "set", 0, from_layer=LAYERS // 2))
    for name in ("llm.mlp_up", "llm.mlp_down"):
        whole = total(PLAIN, "prefilling", "flop", name)
        assert total(found, "prefilling", "flop", name) == pytest.approx(whole / 2 * (1 + TEXT / (VISION + TEXT)))
    assert total(found, "prefilling", "flop", "llm.query") == total(PLAIN, "prefilling", "flop", "llm.query")


def test_fewer_text_tokens_shorten_the_prompt_and_the_cache() -> None:
    found = run(changing("text-tokens", "set", 20))
    assert found.memory.kv_byte == (VISION + 20) * ENTRY_BYTE * LAYERS
    assert total(found, "prefilling", "flop", "llm.query") == 2 * (VISION + 20) * HIDDEN * HIDDEN * LAYERS


def test_sparse_encoder_attention_computes_its_share_of_the_scores() -> None:
    name, half = "encoder.attention", changing("encoder.density", "set", 0.5, from_layer=4)
    layers = MODEL.encoder.layers
    share = (4 + (layers - 4) / 2) / layers
    assert total(run(half), "encoding", "flop", name) == share * total(PLAIN, "encoding", "flop", name)


@pytest.mark.parametrize("share", [0.25, 4])
def test_with_fewer_or_more_patches_than_the_grid_has_tiles_are_neither_cut_nor_given_newlines(share: float) -> None:
    tiled, image = PLANNER.model("llava-next-7b-vicuna"), Workload(images=(Image(500, 300),), output_tokens=OUTPUT)
    plain, found = (
        estimate(tiled, DEVICE, image, None, stack).state
        for stack in ((), (changing("encoder.tokens", "scale", share),))
    )
    assert plain.visual.llm_token != plain.visual.adapter_token
    assert found.encoded.vision == share * plain.visual.adapter_token


@pytest.mark.parametrize(("how", "amount", "share"), [("scale", 0.25, 0.25), ("set", 7e9, None), ("cap", 1e99, 1)])
def test_a_replaced_encoder_computes_what_it_says_and_moves_what_the_model_moves(
    how: Any, amount: float, share: float | None
) -> None:
    names = {each.work.name for each in PLAIN.stages["encoding"].operators if each.work.name.startswith("encoder")}
    found, before = run(changing("encoder.flop", how, amount)), total(PLAIN, "encoding", "flop", *names)
    left = amount if share is None else share * before
    assert total(found, "encoding", "flop", *names) == pytest.approx(left, rel=1e-12)
    assert total(found, "encoding", "byte", *names) == total(PLAIN, "encoding", "byte", *names)
    adapter = {each.work.name for each in PLAIN.stages["encoding"].operators} - names
    assert total(found, "encoding", "flop", *adapter) == total(PLAIN, "encoding", "flop", *adapter)


def test_flops_of_a_replaced_encoder_are_those_of_one_request() -> None:
    two = replace(REQUEST, batch=2)
    found = run(changing("encoder.flop", "set", 7e9), changing("adapter.flop", "set", 1e9), workload=two)
    assert found.stages["encoding"].flop == pytest.approx(2 * 8e9, rel=1e-12)


def test_what_takes_the_adapter_s_place_leaves_its_copies_for_deepstack() -> None:
    model, one, half = PLANNER.model("qwen3-vl-8b"), Workload(images=(Image(320, 320),)), 0.5
    assert model.adapter.copies == 4
    whole, found, halved = (
        estimate(model, DEVICE, one, None, stack)
        for stack in ((), (changing("adapter.flop", "set", 1e9),), (changing("adapter.flop", "scale", half),))
    )
    before = whole.flop["adapter_linear"]
    assert found.flop["adapter_linear"] == pytest.approx(1e9 + 3 / 4 * before, rel=1e-12)
    assert halved.flop["adapter_linear"] == pytest.approx(7 / 8 * before, rel=1e-12)


def test_half_the_weights_are_half_of_their_arithmetic_traffic_and_memory() -> None:
    found = run(changing("llm.weights", "scale", 0.5))
    for stage in ("prefilling", "decoding"):
        assert total(found, stage, "weight_byte") == total(PLAIN, stage, "weight_byte") / 2
    assert found.flop["llm_linear"] == PLAIN.flop["llm_linear"] / 2
    assert found.flop["encoder_linear"] == PLAIN.flop["encoder_linear"]
    assert PLAIN.memory.weight_byte - found.memory.weight_byte == MODEL.llm.parameters


def test_a_bounded_cache_is_read_as_it_is_at_each_step() -> None:
    limit, steps = 660, OUTPUT - 1
    found = run(changing("kv.tokens", "cap", 1e9, limit=limit))
    entries = sum(min(limit, VISION + TEXT + step) for step in range(1, steps + 1))
    assert total(found, "decoding", "kv_byte") == entries * ENTRY_BYTE * LAYERS
    assert found.memory.kv_peak_byte == limit * ENTRY_BYTE * LAYERS
    assert found.memory.kv_byte == PLAIN.memory.kv_byte
    tight = run(changing("kv.tokens", "cap", 1e9, limit=100))
    assert total(tight, "decoding", "kv_byte") == 100 * steps * ENTRY_BYTE * LAYERS
    assert tight.memory.kv_peak_byte == tight.memory.kv_byte


def test_the_oldest_entries_of_a_bounded_cache_go_first() -> None:
    found = run(changing("kv.tokens", "cap", 1e9, limit=100))
    text = sum(min(100, TEXT + step) for step in range(1, OUTPUT))
    assert total(found, "decoding", "vision_byte") == (100 * (OUTPUT - 1) - text) * ENTRY_BYTE * LAYERS


def test_layers_that_share_a_cache_neither_hold_nor_project_it_but_read_it() -> None:
    found = run(changing("kv.layers", "set", LAYERS // 4))
    assert found.memory.kv_byte == PLAIN.memory.kv_byte / 4
    assert found.memory.kv_peak_byte == PLAIN.memory.kv_peak_byte / 4
    for stage in ("prefilling", "decoding"):
        assert total(found, stage, "flop", "llm.key_value") == total(PLAIN, stage, "flop", "llm.key_value") / 4
    assert total(found, "decoding", "kv_byte") == total(PLAIN, "decoding", "kv_byte")


def test_a_state_of_constant_size_costs_the_same_at_every_length() -> None:
    state = changing("kv.state", "set", HEAD_DIM**2)
    found, longer = run(state), run(state, workload=replace(REQUEST, text_tokens=5000))
    byte = HEAD_DIM**2 * HEADS * 2 * LAYERS
    assert found.memory.kv_byte == found.memory.kv_peak_byte == longer.memory.kv_peak_byte == byte
    assert total(found, "decoding", "kv_byte") == (OUTPUT - 1) * byte
    flop = 4 * HEAD_DIM**2 * HEADS * LAYERS
    assert total(found, "decoding", "flop", "llm.attention") == (OUTPUT - 1) * flop
    assert total(found, "prefilling", "flop", "llm.attention") == (VISION + TEXT) * flop


def test_a_step_reads_its_share_of_the_cache_and_a_further_question_all_of_it() -> None:
    found = run(changing("kv.read", "set", 0.25))
    for field in ("kv_byte", "vision_byte"):
        assert total(found, "decoding", field) == total(PLAIN, "decoding", field) / 4
    twice = replace(REQUEST, turns=2)
    question = [total(run(*stack, workload=twice), "prefilling", "kv_byte") for stack in ((), (found.stack[0],))]
    assert question[0] == question[1] > 0
    assert found.memory.kv_byte == PLAIN.memory.kv_byte


def test_entries_on_the_host_come_over_its_link() -> None:
    found = run(changing("kv.resident", "set", 0.5, fetch=0.1))
    assert total(found, "decoding", "host_byte") == pytest.approx(total(PLAIN, "decoding", "kv_byte") / 10)
    assert found.memory.kv_peak_byte == PLAIN.memory.kv_peak_byte / 2


def test_a_shallower_step_runs_fewer_layers_and_the_output_whole() -> None:
    found = run(changing("llm.depth", "set", LAYERS / 2))
    for name in ("llm.query", "llm.mlp_up", "llm.attention"):
        assert total(found, "decoding", "flop", name) == total(PLAIN, "decoding", "flop", name) / 2
    assert total(found, "decoding", "flop", "llm.output") == total(PLAIN, "decoding", "flop", "llm.output")
    assert found.stages["prefilling"] == PLAIN.stages["prefilling"]


def test_bits_differ_by_modality_and_layer() -> None:
    plain = {"order": 10, "value": 8, "group_size": 8, "group_overhead_bit": 0}
    ways = (CacheBits(key=8, **plain), CacheBits(key=4, of="vision", from_layer=8, **plain))  # type: ignore[arg-type]
    found = run(Applied(id="bits", label="bits", parameters={}, cache_bits=ways))
    channel = HEADS * HEAD_DIM / 8
    assert found.memory.kv_byte == channel * (LAYERS * 16 * (VISION + TEXT) - (LAYERS - 8) * 4 * VISION)
    assert found.memory.kv_vision_byte == channel * VISION * (8 * 16 + 24 * 12)
    text = found.memory.kv_byte - found.memory.kv_vision_byte
    assert text == channel * TEXT * 16 * LAYERS


def test_rows_of_one_layer_and_head_are_the_last_of_what_is_alive_there() -> None:
    prune = changing("llm.vision-tokens", "set", 100, from_layer=10)
    rows = adding(stage="prefilling", attention_rows=2, from_layer=10, to_layer=11, heads=1)
    length = 100 + TEXT
    found = total(run(prune, rows), "prefilling", "flop", "technique: adds")
    assert found == 2 * HEAD_DIM * (length + length - 1)


@pytest.mark.parametrize(("serial", "steps"), [(False, 50), (True, 4 * 50)])
def test_steps_that_follow_one_another_start_a_kernel_each(serial: bool, steps: int) -> None:
    request = replace(REQUEST, batch=4)
    without = run(deployment=FLOOR, workload=request)
    cost = adding(stage="prefilling", sequential_steps=47, host_syncs=3, serialises_batch=serial)
    found = run(cost, deployment=FLOOR, workload=request)
    assert found.ttft_s - without.ttft_s == pytest.approx(steps * 1e-3, rel=1e-6)


def test_pixels_reach_the_tokens_of_the_llm() -> None:
    model = PLANNER.model("qwen2.5-vl-7b")
    request = replace(REQUEST, images=(Image(1120, 560),))
    cut = [
        estimate(model, DEVICE, request, None, [changing("pixels", *how)])
        for how in (("scale", 0.25), ("set", 560 * 280), ("cap", 560 * 280))
    ]
    assert {each.state.vision for each in cut} == {(560 // 28) * (280 // 28)}


@pytest.mark.parametrize(
    "stack",
    [
        changing("llm.weights", "scale", 0.5), changing("kv.layers", "set", 8), changing("llm.depth", "set", 16),
        changing("kv.state", "set", 64), changing("kv.read", "set", 0.5), changing("kv.tokens", "cap", 1e9, limit=100),
        changing("encoder.flop", "set", 1e9), changing("text-tokens", "set", 9),
        adding(stage="prefilling", host_syncs=1),
    ],
    ids=lambda each: each.id,
)  # fmt: skip
def test_what_a_price_takes_for_granted_is_said(stack: Applied) -> None:
    assert len(run(stack).assumptions) == len(PLAIN.assumptions) + 1
