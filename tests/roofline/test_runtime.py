"""What a runtime adds to the bound: shares of the peaks, starts of kernels, and the host beside the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.operator import FEW_ROWS
from lvlm_atlas.roofline.runtime import Host, Law, Runtime

NOTHING = Runtime(id="nothing", name="Nothing")
"""Kernels at the peaks, and a host that takes no time."""


def asked(planner: Planner, runtime: Runtime | None, output: int = 16, **run: Any) -> Estimate:
    request = planner.request(image="640x480", text=64, output=output, batch=run.pop("batch", 1))
    return planner.estimate(
        "qwen2.5-vl-7b", "a100-sxm-80", request, deployment=Deployment(**run), runtime=runtime, stack=""
    )


def times(found: Estimate) -> tuple[float, ...]:
    return (*(stage.time_s for stage in found.stages.values()), found.ttft_s, found.tpot_s, found.total_s)


def test_a_runtime_that_adds_nothing_is_the_bound(planner: Planner) -> None:
    assert times(asked(planner, NOTHING)) == times(asked(planner, None))


def test_work_of_the_host_comes_before_each_stage_that_needs_it(planner: Planner) -> None:
    bound = asked(planner, None)
    host = Host(request_s=0.5, image_s=0.25, step_s=0.125)
    found = asked(planner, replace(NOTHING, host=host))
    added = {name: found.stages[name].time_s - bound.stages[name].time_s for name in bound.stages}
    assert added == pytest.approx({"encoding": 0.25, "prefilling": 0.5 + 0.125, "decoding": 15 * 0.125})
    assert "host" in {each.bound for each in found.stages["encoding"].operators}


def test_every_image_of_a_batch_is_prepared_in_turn(planner: Planner) -> None:
    runtime = replace(NOTHING, host=Host(image_s=0.25))
    waits = [asked(planner, runtime, batch=n).ttft_s - asked(planner, None, batch=n).ttft_s for n in (1, 4)]
    assert waits == pytest.approx([0.25, 1.0])


def test_megapixels_are_those_that_enter_the_encoder(planner: Planner) -> None:
    found = asked(planner, replace(NOTHING, host=Host(megapixel_s=1.0)))
    patches = sum(each.sequences * each.patch for each in found.state.encoded.visual.patches)
    waited = found.ttft_s - asked(planner, None).ttft_s
    assert waited == pytest.approx(patches * 14**2 / 1e6)


def test_images_are_prepared_one_by_one_and_frames_as_many_as_there_are(planner: Planner) -> None:
    runtime = replace(NOTHING, host=Host(megapixel_s=1.0))

    def waits(**asked_for: Any) -> float:
        request = planner.request(text=8, output=1, **asked_for)
        return sum(
            each.work.host_s
            for each in planner.estimate("qwen2.5-vl-7b", "h200", request, runtime=runtime).stages["encoding"].operators
        )

    one = waits(image="640x480")
    assert waits(image="640x480", images=5) == pytest.approx(5 * one)
    eight, four = (waits(video=f"644x476:{seconds}s@2") for seconds in (4, 2))
    assert eight == pytest.approx(2 * four)
    assert eight == pytest.approx(8 * 644 * 476 / 1e6), "two frames share a patch, and both are prepared"


def test_a_request_without_images_waits_for_none(planner: Planner) -> None:
    request = replace(planner.request(text=64, output=4), images=())
    runtime = replace(NOTHING, host=Host(image_s=5.0, megapixel_s=5.0))
    assert planner.estimate("qwen2.5-vl-7b", "a100-sxm-80", request, runtime=runtime).stages["encoding"].time_s == 0


def test_starting_kernels_hides_behind_the_device_or_adds_to_it(planner: Planner) -> None:
    bound = asked(planner, None)
    layers = bound.model.llm.layers
    slow_s, quick_s = 2 * bound.tpot_s / layers, bound.tpot_s / layers / 2
    hidden = [asked(planner, replace(NOTHING, host=Host(layer_s=each))).tpot_s for each in (quick_s, slow_s)]
    assert hidden == pytest.approx([bound.tpot_s, 2 * bound.tpot_s])
    added = asked(planner, replace(NOTHING, host=Host(layer_s=quick_s, hides=False))).tpot_s
    assert added == pytest.approx(1.5 * bound.tpot_s)


def test_what_the_device_must_wait_for_does_not_hide(planner: Planner) -> None:
    bound = asked(planner, None)
    slow_s = 2 * bound.tpot_s / bound.model.llm.layers
    both = asked(planner, replace(NOTHING, host=Host(layer_s=slow_s, step_s=0.01)))
    assert both.tpot_s == pytest.approx(2 * bound.tpot_s + 0.01)


def test_operators_of_a_stage_still_add_up_where_it_waits(planner: Planner) -> None:
    found = asked(planner, planner.runtime("transformers"))
    for stage in found.stages.values():
        assert sum(each.time_s for each in stage.operators) == pytest.approx(stage.time_s)
    assert any(each.work.name == "host.launches" for each in found.stages["decoding"].operators)


def test_a_long_prompt_is_read_in_passes(planner: Planner) -> None:
    host = Host(step_s=0.01, chunk_token=128)
    found = asked(planner, replace(NOTHING, host=host))
    tokens = found.state.encoded.vision + found.state.encoded.text
    waited = found.stages["prefilling"].time_s - asked(planner, None).stages["prefilling"].time_s
    assert waited == pytest.approx(0.01 * -(-tokens // 128))


def test_each_kind_of_operator_goes_by_its_own_law(planner: Planner) -> None:
    laws = {"linear": Law(), "encoder-attention": Law(compute=0.5, bandwidth=0.5), "cache": Law(bandwidth=0.25)}
    found, bound = asked(planner, replace(NOTHING, laws=laws)), asked(planner, None)

    def of(estimate: Estimate, stage: str, law: str) -> float:
        return sum(each.time_s for each in estimate.stages[stage].operators if each.work.law == law)

    assert of(found, "encoding", "encoder-attention") == pytest.approx(2 * of(bound, "encoding", "encoder-attention"))
    assert of(found, "encoding", "window-attention") == pytest.approx(2 * of(bound, "encoding", "window-attention"))
    assert of(found, "decoding", "cache") == pytest.approx(4 * of(bound, "decoding", "cache"))
    assert of(found, "decoding", "") == pytest.approx(of(bound, "decoding", ""))


def test_quantised_weights_spare_the_parts_that_stay_wide(planner: Planner) -> None:
    runtime = replace(NOTHING, wide_parts=("encoder", "output"), scale_bit=0.5)
    found = {
        each.work.name: each.work.weight_byte
        for each in asked(planner, runtime, weight_dtype="int4").stages["decoding"].operators
    }
    full = {each.work.name: each.work.weight_byte for each in asked(planner, None).stages["decoding"].operators}
    assert found["llm.output"] == full["llm.output"]
    assert found["llm.mlp_down"] == pytest.approx(full["llm.mlp_down"] * 4.5 / 16)


def test_a_runtime_may_compute_logits_of_all_positions_that_are_left(planner: Planner) -> None:
    runtime = replace(NOTHING, logits_of_all=True)
    request = planner.request(image="640x480", text=64, output=1)
    for stack in ("", "fastv:keep_ratio=0.25"):
        found = planner.estimate("qwen2.5-vl-7b", "a100-sxm-80", request, stack=stack, runtime=runtime)
        (output,) = [each for each in found.stages["prefilling"].operators if each.work.name == "llm.output"]
        left = found.state.prefilled.vision[-1] + found.state.prefilled.text[-1]
        llm = found.model.llm
        assert output.work.flop == pytest.approx(2 * left * llm.hidden * llm.vocab)


def test_few_rows_unpack_narrow_weights_at_a_rate_of_their_own(planner: Planner) -> None:
    runtime = replace(NOTHING, few_compute=0.01)
    steps = [
        asked(planner, runtime, weight_dtype="int4", batch=batch).tpot_s for batch in (1, 2, 8, FEW_ROWS, FEW_ROWS + 1)
    ]
    assert steps == sorted(steps), "more requests never take less"
    assert steps[3] > 1.8 * steps[2]
    assert steps[4] == pytest.approx(steps[3], rel=0.05), "beyond, weights are unpacked once for many rows"


def test_sums_over_devices_take_their_latency_twice_a_layer(planner: Planner) -> None:
    found, bound = (
        asked(planner, runtime, tensor_parallel=2) for runtime in (replace(NOTHING, link_latency_s=1e-3), NOTHING)
    )
    assert found.tpot_s - bound.tpot_s == pytest.approx(2 * 28 * 1e-3)


def test_a_cache_that_is_copied_and_written_out_for_each_head_moves_more(planner: Planner) -> None:
    copied = replace(NOTHING, cache_copies=2, repeats_heads=True)
    assert copied.kv_traffic(7) == 1 + 2 + 14
    assert copied.kv_traffic(1) == 1 + 2, "heads that share nothing are not written out"


def test_the_band_holds_what_was_predicted(planner: Planner) -> None:
    found = asked(planner, planner.runtime("vllm"))
    low, high = found.band_s(found.ttft_s) or (0.0, 0.0)
    assert low < found.ttft_s < high
    assert asked(planner, None).band_s(1.0) is None


def test_times_that_stand_in_for_others_say_nothing_of_how_sure_they_are(planner: Planner) -> None:
    own, borrowed = (asked(planner, planner.runtime(id_)) for id_ in ("sglang", "lmdeploy"))
    assert own.tpot_s == borrowed.tpot_s
    assert own.residual is not None
    assert borrowed.residual is None
    assert any("those of SGLang" in each for each in borrowed.assumptions)


def test_times_kept_aside_make_a_runtime_no_surer_than_what_stands_in(planner: Planner) -> None:
    own, judged = (asked(planner, planner.runtime(id_)) for id_ in ("sglang", "vllm"))
    record = planner.atlas.runtime("vllm")
    assert record.judged is not None
    assert own.residual is not None
    assert judged.residual == max(own.residual, record.judged.error)
    assert any("kept aside" in each for each in judged.assumptions)


def test_a_layer_of_a_prompt_may_take_longer_to_start(planner: Planner) -> None:
    """So long that it sets the time: a first token waits for all layers, and those that follow do not."""
    without, found = asked(planner, NOTHING), asked(planner, replace(NOTHING, host=Host(prompt_layer_s=1.0)))
    layers = planner.model("qwen2.5-vl-7b").llm.layers
    assert found.stages["prefilling"].time_s == pytest.approx(layers)
    assert found.tpot_s == without.tpot_s


@settings(max_examples=30)
@given(st.data())
def test_no_runtime_of_the_catalog_beats_the_bound(data: Any) -> None:
    planner = PLANNER
    runtime = planner.runtime(data.draw(st.sampled_from(sorted(planner.atlas.runtimes))))
    model = data.draw(st.sampled_from(sorted(planner.atlas.models)))
    request = planner.request(image=f"{data.draw(st.integers(200, 1500))}x800", batch=data.draw(st.integers(1, 8)))
    deployment = Deployment(weight_dtype=data.draw(st.sampled_from([None, "int4", "int8"])), activation_dtype="bf16")
    bound = planner.estimate(model, "h100-sxm", request, deployment=deployment)
    found = planner.estimate(model, "h100-sxm", request, deployment=deployment, runtime=runtime)
    for name, stage in bound.stages.items():
        assert found.stages[name].time_s >= stage.time_s * (1 - 1e-9), (runtime.id, name)


PLANNER = Planner()


@pytest.mark.parametrize(
    ("laws", "said"),
    [
        ({"gemm": Law()}, "no kind of operator"),
        ({"linear": Law(compute=0)}, "shares"),
        ({"linear": Law(start_s=-1)}, "start_s"),
    ],
)
def test_a_runtime_that_cannot_be_is_refused(laws: dict[str, Law], said: str) -> None:
    with pytest.raises(AtlasError, match=said):
        Runtime(id="x", name="X", laws=laws)


def test_typical_stands_for_the_default_runtime_unless_another_is_named(planner: Planner) -> None:
    paced = planner.paced(Deployment(), efficiency="typical")
    assert paced.runtime is not None
    assert paced.runtime.id == "vllm"
    named = planner.paced(Deployment(), efficiency="typical", runtime="transformers")
    assert named.runtime is not None
    assert named.runtime.id == "transformers"
    with pytest.raises(AtlasError, match="both given"):
        planner.paced(Deployment(), efficiency="ideal", runtime="vllm")
