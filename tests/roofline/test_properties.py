"""What holds of every estimate: bounds, monotony, scaling laws, sums and units."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.contract import contract
from lvlm_atlas.roofline.deployment import BITS, IDEAL, PRESETS, Deployment, Efficiency
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.roofline.transform import Applied, CacheBits, Change
from lvlm_atlas.roofline.workload import Image, Video, Workload
from lvlm_atlas.schema.effect import Speculation
from lvlm_atlas.specs.technique import applied

PLANNER = Planner(Path(__file__).resolve().parents[2])
MODELS = {id_: PLANNER.model(id_) for id_ in PLANNER.kb.atlas.models}
SLACK = 1 + 1e-9
"""Sums of many floats."""
FEW = settings(max_examples=60)

models = st.sampled_from(sorted(MODELS)).map(MODELS.__getitem__)
workloads = st.builds(
    Workload,
    images=st.lists(st.builds(Image, st.integers(200, 1500), st.integers(200, 1500)), max_size=3).map(tuple),
    videos=st.lists(
        st.builds(Video, st.integers(200, 1500), st.integers(200, 1500), st.floats(1, 60), st.floats(0.2, 2)),
        max_size=1,
    ).map(tuple),
    text_tokens=st.integers(1, 3000),
    output_tokens=st.integers(1, 400),
    turns=st.integers(1, 3),
    batch=st.integers(1, 12),
)
efficiencies = st.sampled_from(sorted(PRESETS)).map(PRESETS.__getitem__) | st.builds(
    Efficiency,
    compute=st.floats(0.05, 1),
    bandwidth=st.floats(0.05, 1),
    kernel_floor_s=st.floats(0, 1e-4),
    kv_traffic=st.floats(1, 20),
)
deployments = st.builds(
    Deployment,
    weight_dtype=st.sampled_from([None, "int8", "int4", "fp8"]),
    activation_dtype=st.just("bf16"),
    kv_dtype=st.sampled_from([None, "fp8", "int4"]),
    tensor_parallel=st.sampled_from([1, 1, 1, 2, 4]),
    pipeline_parallel=st.sampled_from([1, 1, 2]),
    attention=st.sampled_from(["fused", "materialised"]),
    unused_layers=st.booleans(),
    efficiency=efficiencies,
)


@st.composite
def devices(draw: st.DrawFn) -> Device:
    """Devices from slow to fast, balanced or not."""
    peak = 10 ** draw(st.floats(12.5, 15.5))
    return Device(
        id="made-up",
        name="made up",
        peak_flop_s=dict.fromkeys(BITS, peak),
        bandwidth_byte_s=10 ** draw(st.floats(10.5, 13)),
        memory_byte=80e9,
        link_byte_s=10 ** draw(st.floats(10, 12)),
        host_link_byte_s=10 ** draw(st.floats(9.5, 11)),
        tdp_w=300,
    )


shares = st.floats(0, 1)


@st.composite
def reductions(draw: st.DrawFn) -> Applied:
    """A technique that leaves less of something and adds nothing."""
    quantity = draw(
        st.sampled_from(
            [
                "pixels",
                "encoder.density",
                "encoder.flop",
                "encoder.tokens",
                "adapter.flop",
                "vision-tokens",
                "text-tokens",
                "llm.vision-tokens",
                "llm.vision-queries",
                "llm.vision-mlp",
                "llm.weights",
                "attention.density",
                "kv.tokens",
                "kv.layers",
                "kv.read",
                "llm.depth",
            ]
        )
    )
    change = Change(
        quantity=quantity,
        order=draw(st.integers(0, 3)),
        how="scale",
        amount=draw(shares),
        from_layer=draw(st.integers(0, 5)),
        of=draw(st.sampled_from(["all", "vision", "text"])),
        before_adapter=draw(st.booleans()),
        limit=draw(st.none() | st.integers(0, 3000)) if quantity == "kv.tokens" else None,
    )
    bits = CacheBits(order=4, key=4, value=2, group_size=32, group_overhead_bit=32, full_precision_keys=_sawtooth)
    quantises = draw(st.booleans())
    return Applied(id=quantity, label=quantity, parameters={}, changes=(change,), cache_bits=(bits,) * quantises)


def _sawtooth(names: Any) -> float:
    return names["N"] % 64


Case = tuple[Model, Device, Workload, Deployment]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Requests that the model can take, on devices among which its heads can be split."""
    model, workload, deployment = draw(models), draw(workloads), draw(deployments)
    if model.tokens.video is None:
        workload = replace(workload, videos=())
    if model.llm.heads % deployment.tensor_parallel:
        deployment = replace(deployment, tensor_parallel=1)
    return model, draw(devices()), workload, deployment


def costs(found: Estimate) -> dict[str, float]:
    """All that no reduction may raise."""
    stages = {
        f"{name} {what}": getattr(found.stages[name], what) for name in STAGES for what in ("time_s", "flop", "byte")
    }
    memory = {name: getattr(found.memory, name) for name in ("kv_byte", "kv_peak_byte")}
    if math.isinf(found.memory.activations.prompt_most):  # else a pass has room for more prompts where they are short
        memory |= {"activation_byte": found.memory.activation_byte, "device": found.memory.device_byte}
    return {**stages, **memory, "ttft": found.ttft_s, "total": found.total_s}


def assert_no_more(less: Estimate, more: Estimate) -> None:
    """Nothing costs more in the one than in the other."""
    lower, upper = costs(less), costs(more)
    dearer = {name: (lower[name], upper[name]) for name in lower if lower[name] > upper[name] * SLACK + 1e-30}
    assert not dearer


@FEW
@given(cases(), st.lists(reductions(), min_size=1, max_size=2))
def test_fewer_tokens_never_cost_more_without_overhead(case: Case, stack: list[Applied]) -> None:
    model, device, workload, deployment = case
    # Fewer pixels are no fewer tokens for every model: an image that rounds to other sides may be cut into more tiles.
    assume(all(change.quantity != "pixels" for each in stack for change in each.changes))
    plain = estimate(model, device, workload, deployment)
    assert_no_more(estimate(model, device, workload, deployment, stack), plain)


@FEW
@given(cases(), st.data())
def test_a_smaller_request_never_costs_more(case: Case, data: st.DataObject) -> None:
    model, device, workload, deployment = case
    less = replace(
        workload,
        text_tokens=data.draw(st.integers(1, workload.text_tokens)),
        output_tokens=data.draw(st.integers(1, workload.output_tokens)),
        turns=data.draw(st.integers(1, workload.turns)),
        batch=data.draw(st.integers(1, workload.batch)),
    )
    assert_no_more(estimate(model, device, less, deployment), estimate(model, device, workload, deployment))


@FEW
@given(cases(), st.floats(1, 10), st.floats(1, 10), st.floats(1, 10))
def test_a_faster_device_is_never_slower(
    case: Case,
    peak: float,
    bandwidth: float,
    link: float,
) -> None:
    model, device, workload, deployment = case
    faster = replace(
        device,
        peak_flop_s={name: each * peak for name, each in device.peak_flop_s.items()},
        bandwidth_byte_s=device.bandwidth_byte_s * bandwidth,
        link_byte_s=(device.link_byte_s or 0) * link,
    )
    assert_no_more(estimate(model, faster, workload, deployment), estimate(model, device, workload, deployment))


@FEW
@given(cases(), st.integers(2, 8))
def test_a_larger_batch_takes_longer_and_each_request_of_it_less(case: Case, times: int) -> None:
    model, device, workload, deployment = case
    one = estimate(model, device, workload, deployment)
    many = estimate(model, device, replace(workload, batch=times * workload.batch), deployment)
    assert_no_more(one, many)
    assert many.total_s <= times * one.total_s * SLACK
    assert many.tpot_s <= times * one.tpot_s * SLACK
    assert many.ttft_s <= times * one.ttft_s * SLACK


@FEW
@given(cases())
def test_more_devices_never_hold_more_each(case: Case) -> None:
    model, device, workload, deployment = case
    alone = replace(deployment, tensor_parallel=1, pipeline_parallel=1)
    held = estimate(model, device, workload, alone).memory.device_byte
    assert estimate(model, device, workload, deployment).memory.device_byte <= held * SLACK


@FEW
@given(cases())
def test_as_many_requests_fit_at_once_as_a_batch_of_them_holds_that_is_prefilled_one_by_one(case: Case) -> None:
    model, device, workload, deployment = case
    one = estimate(model, device, replace(workload, batch=1), deployment)

    def held(batch: int) -> float:
        parts = dict(estimate(model, device, replace(workload, batch=batch), deployment).memory.held)
        return sum(parts.values()) - parts["activations"] + one.memory.activations.beside_others

    most = one.fits_at_once
    assume(most < 10**5)
    assert held(most + 1) > device.memory_byte / SLACK
    assert most == 0 or held(most) <= device.memory_byte * SLACK
    assert estimate(model, device, replace(workload, batch=3), deployment).fits_at_once in (most - 1, most, most + 1)


@FEW
@given(cases(), st.sampled_from(["weight_dtype", "activation_dtype", "kv_dtype"]))
def test_narrower_numbers_never_move_more_bytes(case: Case, which: str) -> None:
    model, device, workload, _ = case
    base = Deployment(weight_dtype="bf16", activation_dtype="bf16", kv_dtype="bf16")
    bytes_ = []
    for dtype in ("fp32", "bf16", "fp8", "int4"):
        changed: dict[str, Any] = {which: dtype}
        found = estimate(model, device, workload, replace(base, **changed))
        bytes_.append([found.stages[name].byte for name in STAGES] + [found.memory.device_byte])
    for wide, narrow in pairwise(bytes_):
        assert all(n <= w * SLACK for n, w in zip(narrow, wide, strict=True))


@FEW
@given(cases())
def test_the_ideal_is_a_bound_of_every_other_efficiency(case: Case) -> None:
    model, device, workload, deployment = case
    ideal = estimate(model, device, workload, replace(deployment, efficiency=IDEAL))
    real = estimate(model, device, workload, deployment)
    for name in STAGES:
        assert ideal.stages[name].time_s <= real.stages[name].time_s * SLACK
        assert ideal.stages[name].flop == real.stages[name].flop


@FEW
@given(cases())
def test_operators_sum_to_stages_and_stages_to_the_whole(case: Case) -> None:
    model, device, workload, deployment = case
    found = estimate(model, device, workload, deployment)
    for stage in found.stages.values():
        assert stage.time_s == pytest.approx(sum(each.time_s for each in stage.operators), rel=1e-12)
        assert stage.flop == pytest.approx(sum(each.work.flop for each in stage.operators), rel=1e-12)
    encoding, prefilling, decoding = (found.stages[name].time_s for name in STAGES)
    assert found.total_s == pytest.approx(encoding + prefilling + decoding, rel=1e-12)
    alone = estimate(model, device, replace(workload, turns=1), found.deployment)
    later = prefilling - alone.stages["prefilling"].time_s
    assert found.ttft_s == pytest.approx(alone.ttft_s, rel=1e-12)
    assert found.total_s == pytest.approx(found.ttft_s + later + decoding, rel=1e-9)
    steps = workload.turns * (workload.output_tokens - 1)
    assert found.tpot_s * steps == pytest.approx(decoding, rel=1e-12)
    first = sum(each.work.flop for name in STAGES[:2] for each in alone.stages[name].operators)
    assert sum(found.flop.values()) == pytest.approx(first, rel=1e-12)


@FEW
@given(cases(), st.lists(reductions(), min_size=1, max_size=3))
def test_techniques_that_keep_everything_change_nothing(case: Case, stack: list[Applied]) -> None:
    model, device, workload, deployment = case
    keep = [
        replace(each, changes=tuple(replace(c, amount=1, limit=None) for c in each.changes), cache_bits=())
        for each in stack
    ]
    found, plain = (estimate(model, device, workload, deployment, techniques) for techniques in (keep, ()))
    assert costs(found) == costs(plain)
    assert [stage.operators for stage in found.stages.values()] == [stage.operators for stage in plain.stages.values()]


def test_the_order_in_which_a_stack_is_written_does_not_matter(planner: Planner) -> None:
    stack = ["divprune:ratio=0.7", "fastv:keep_ratio=0.4", "kivi"]
    found = {
        str(contract(planner.estimate("llava-1.5-7b", "a100-sxm-80", "single-image-chat", stack=order)))
        for order in permutations(stack)
    }
    assert len(found) == 1


@FEW
@given(cases(), st.booleans(), st.floats(0.1, 10))
def test_only_ratios_of_bytes_to_bandwidth_and_of_flops_to_peaks_matter(case: Case, fused: bool, times: float) -> None:
    """Numbers twice as wide through memory and links twice as fast: no time changes. All k times as fast: 1 / k."""
    attention = "fused" if fused else "materialised"
    model, device, workload, drawn = case
    deployment = Deployment(attention=attention, tensor_parallel=drawn.tensor_parallel)  # type: ignore[arg-type]

    def run(width: str, bytes_: float, flops: float) -> dict[str, float]:
        machine = replace(
            device,
            peak_flop_s={name: each * flops for name, each in device.peak_flop_s.items()},
            bandwidth_byte_s=device.bandwidth_byte_s * bytes_,
            link_byte_s=(device.link_byte_s or 0) * bytes_,
        )
        # States of linear attention have a width of their own; here they are as wide as everything else.
        linear = model.llm.linear and replace(model.llm.linear, state_byte=BITS[width] // 8)
        wide = replace(model, llm=replace(model.llm, linear=linear))
        found = estimate(wide, machine, workload, replace(deployment, weight_dtype=width, activation_dtype=width))
        return {name: found.stages[name].time_s for name in STAGES}

    narrow = run("bf16", 1, 1)
    assert run("fp32", 2, 1) == pytest.approx(narrow, rel=1e-12)
    assert run("bf16", times, times) == pytest.approx({name: each / times for name, each in narrow.items()}, rel=1e-9)


@FEW
@given(st.sampled_from(["qwen2.5-vl-7b", "qwen3-vl-8b", "llava-1.5-7b", "gemma-3-12b"]), st.integers(1, 40), devices())
def test_flops_of_encoding_grow_with_images_on_a_line(model: str, images: int, device: Device) -> None:
    def flop(count: int) -> float:
        request = Workload(images=(Image(640, 480, count),))
        return estimate(MODELS[model], device, request).stages["encoding"].flop

    assert flop(images) == pytest.approx(images * flop(1), rel=1e-12)


@FEW
@given(models, st.integers(10, 4000), devices())
def test_linear_layers_grow_with_the_prompt_on_a_line_and_attention_with_its_square(
    model: Model, text: int, device: Device
) -> None:
    def flop(times: int) -> tuple[float, float]:
        request = Workload(text_tokens=times * text, output_tokens=1)
        model_ = replace(model, llm=replace(model.llm, local_layers=frozenset(), linear=None))
        found = estimate(model_, device, request, Deployment(attention="materialised"))
        head = 2 * model.llm.hidden * model.llm.vocab  # runs for the last position only
        return found.flop["llm_linear"] - head, found.flop["attention"]

    (linear, attention), (linear_3, attention_3) = flop(1), flop(3)
    assert linear_3 == pytest.approx(3 * linear, rel=1e-9)
    assert attention_3 == pytest.approx(9 * attention, rel=1e-9)


@FEW
@given(cases(), st.integers(2, 300))
def test_weights_are_read_once_a_step(case: Case, output: int) -> None:
    model, device, workload, _ = case

    def read(tokens: int) -> float:
        found = estimate(model, device, replace(workload, output_tokens=tokens))
        return sum(each.work.weight_byte for each in found.stages["decoding"].operators)

    assert read(output) == pytest.approx((output - 1) * read(2), rel=1e-12)


@pytest.mark.parametrize("model", ["llava-1.5-7b", "qwen2.5-vl-7b", "gemma-3-12b"])
def test_techniques_of_the_catalog_change_nothing_at_their_neutral_setting(planner: Planner, model: str) -> None:
    """What they add to find that out stays, and so may a limit that the cache does not reach."""
    request = Workload(images=(Image(640, 480, 2),), text_tokens=60, output_tokens=30)
    spec, device, atlas = planner.model(model), planner.device("h200"), planner.kb.atlas
    plain = estimate(spec, device, request)
    for technique in atlas.techniques.values():
        if technique.neutral is None or any(isinstance(effect, Speculation) for effect in technique.effects):
            continue
        found = estimate(spec, device, request, None, [applied(atlas, technique, technique.neutral)])
        cached = replace(
            found.state.cached, bits=(), stored=plain.state.cached.stored, limits=plain.state.cached.limits
        )
        left = replace(found.state, extras=(), cached=cached)
        assert left == plain.state, technique.id
        assert found.memory.kv_byte == plain.memory.kv_byte, technique.id
        assert found.memory.kv_peak_byte == plain.memory.kv_peak_byte, technique.id
