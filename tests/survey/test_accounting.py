"""The survey's equations as printed, and its preset against the latencies of its table 8."""

from __future__ import annotations

from statistics import linear_regression

import pytest

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import SURVEY, Deployment
from lvlm_atlas.roofline.estimate import estimate
from lvlm_atlas.roofline.transform import Applied, Change
from lvlm_atlas.roofline.workload import Image, Video, Workload
from lvlm_atlas.survey import accounting

TABLE_8 = ((1.73, 58.94), (0.40, 42.08), (0.22, 38.65))
"""Cache in GB and latency in ms of Qwen2.5-VL-7B on an L40S, as printed."""
TOKEN_BYTE = 57_344
EXEMPT = 700
"""Tokens that no budget touches, as the memory column of the table implies."""


def test_equation_2_adds_the_stages() -> None:
    assert accounting.total_s(1.0, 2.0, 0.1, 30) == pytest.approx(6.0)


def test_equation_3_divides_operations_by_the_peak() -> None:
    assert accounting.encode_s(624e12, 312e12) == 2


def test_equation_4_takes_the_longer_wall() -> None:
    assert accounting.prefill_s(312e12, 1e9, 312e12, 2e12) == 1
    assert accounting.prefill_s(1.0, 4e12, 312e12, 2e12) == 2


def test_equation_5_gives_the_bytes_of_the_survey_s_example(planner: Planner) -> None:
    llm = planner.model("qwen2.5-vl-72b").llm
    assert accounting.kv_byte(llm, 1, 2) == 327_680
    assert accounting.kv_byte(llm, 40_000, 2) == 13_107_200_000


def test_equation_6_reads_weights_and_cache() -> None:
    assert accounting.step_s(14e9, 2e9, 2e12) == pytest.approx(8e-3)


def test_equation_10_is_the_ridge_of_the_device(planner: Planner) -> None:
    assert planner.device("a100-sxm-80").ridge("fp16") == pytest.approx(153.02, abs=0.005)


def test_equation_11_is_one_in_sixteen_bits_and_four_in_four() -> None:
    assert accounting.decode_intensity(2) == 1
    assert accounting.decode_intensity(0.5) == 4


@pytest.mark.parametrize(
    ("model", "printed", "kept"),
    [
        ("llava-1.5-7b", 4_096, 4_096),
        ("qwen2.5-vl-7b", 512, 512),
        ("internvl2.5-8b", 1_024, 1_024),
        ("qwen3-vl-30b-a3b", 256, 512),
        ("qwen3-vl-235b-a22b", 256, 512),
        ("gemma-3-12b", 1_920, 2_048),
    ],
)
def test_the_printed_width_of_the_cache_is_right_only_if_heads_fill_the_hidden_width(
    planner: Planner, model: str, printed: int, kept: int
) -> None:
    llm = planner.model(model).llm
    assert accounting.kv_width(llm) == printed
    assert llm.kv_heads * llm.head_dim == kept


def test_both_accountings_agree_on_encoding_at_full_peak_and_on_the_cache(planner: Planner) -> None:
    ours = planner.estimate("qwen2.5-vl-7b", "a100-sxm-80", Workload(images=(Image(1280, 720),), text_tokens=100))
    theirs = accounting.accounting(ours)
    assert theirs.kv_byte == ours.memory.kv_byte == (1_196 + 100) * TOKEN_BYTE
    assert theirs.encode_s == pytest.approx(ours.stages["encoding"].flop / 312e12)
    assert theirs.encode_s <= ours.stages["encoding"].time_s


def test_the_survey_s_accounting_leaves_most_of_prefilling_out(planner: Planner) -> None:
    ours = planner.estimate("qwen2.5-vl-7b", "a100-sxm-80", Workload(text_tokens=4_096))
    theirs = accounting.accounting(ours)
    assert 1e3 * theirs.prefill_s == pytest.approx(10.8, abs=0.05)
    assert 1e3 * ours.stages["prefilling"].time_s > 182


def test_the_survey_s_step_is_ours_but_for_the_embedding_it_counts_and_what_lies_between(planner: Planner) -> None:
    ours = planner.estimate("qwen2.5-vl-7b", "a100-sxm-80", Workload(text_tokens=4_096))
    llm = ours.model.llm
    theirs = accounting.accounting(ours).step_s - 2 * llm.vocab * llm.hidden / ours.device.bandwidth_byte_s
    assert theirs == pytest.approx(ours.tpot_s, rel=0.01)


def test_totals_of_the_accounting_add_up(planner: Planner) -> None:
    theirs = accounting.accounting(planner.estimate("llava-1.5-7b", "h200", Workload(images=(Image(336, 336),))))
    assert theirs.ttft_s == theirs.encode_s + theirs.prefill_s
    assert theirs.total_s == pytest.approx(theirs.ttft_s + 256 * theirs.step_s)


def test_devices_multiply_bandwidth_and_peak_alike(planner: Planner) -> None:
    request = Workload(images=(Image(1280, 720, 20),))
    one, two = (
        accounting.accounting(
            planner.estimate("qwen2.5-vl-7b", "h200", request, deployment=Deployment(tensor_parallel=devices))
        )
        for devices in (1, 2)
    )
    assert one.kv_byte == two.kv_byte
    for name in ("encode_s", "prefill_s", "step_s", "total_s"):
        assert getattr(one, name) == pytest.approx(2 * getattr(two, name))


def test_fewer_vision_tokens_cost_less_in_the_survey_s_accounting_too(planner: Planner) -> None:
    request = Workload(images=(Image(1280, 720, 20),))
    plain, pruned = (
        accounting.accounting(planner.estimate("qwen2.5-vl-7b", "h200", request, stack=stack))
        for stack in ((), ("divprune",))
    )
    assert pruned.kv_byte < plain.kv_byte
    assert pruned.prefill_s < plain.prefill_s
    assert pruned.step_s < plain.step_s


def test_the_preset_is_the_least_squares_fit_of_table_8(planner: Planner) -> None:
    slope, start = linear_regression([gb for gb, _ in TABLE_8], [ms for _, ms in TABLE_8])
    ideal = planner.estimate("qwen2.5-vl-7b", "l40s", Workload(text_tokens=1, output_tokens=2))
    kernels = sum(each.work.kernels for each in ideal.stages["decoding"].operators)
    assert kernels == 28 * 13 + 1
    assert SURVEY.kernel_floor_s * kernels == pytest.approx(start / 1e3 - ideal.tpot_s, rel=1e-3)
    assert SURVEY.kv_traffic == pytest.approx(slope / 1e3 * 864, rel=1e-3)
    assert SURVEY.compute == SURVEY.bandwidth == 1


@pytest.mark.parametrize(("cache_gb", "latency_ms"), TABLE_8)
def test_the_preset_reproduces_the_latencies_of_table_8(planner: Planner, cache_gb: float, latency_ms: float) -> None:
    # A minute and a half of video fills most of the cache that the table prints; text makes it exact.
    clip = Video(640, 360, 98, 2.0, 30.0)
    full = round(TABLE_8[0][0] * 1e9 / TOKEN_BYTE)
    vision = planner.estimate("qwen2.5-vl-7b", "l40s", Workload(videos=(clip,))).state.vision
    text = round(full - vision)
    assert 0 < text < 2 * EXEMPT
    kept = round(cache_gb * 1e9 / TOKEN_BYTE)
    cap = Change(quantity="kv.tokens", order=0, how="cap", amount=kept - text, of="vision")
    found = estimate(
        planner.model("qwen2.5-vl-7b"),
        planner.device("l40s"),
        Workload(videos=(clip,), text_tokens=text, output_tokens=2),
        Deployment(efficiency=SURVEY),
        (Applied(id="budget", label="budget", parameters={}, changes=(cap,)),),
    )
    assert found.memory.kv_byte / 1e9 == pytest.approx(cache_gb, abs=1e-4)
    assert 1e3 * found.tpot_s == pytest.approx(latency_ms, rel=0.03)


@pytest.mark.parametrize(("tokens", "bound_ms"), [(30_169, 18.4), (6_975, 16.8), (3_836, 16.6)])
def test_as_bandwidth_the_latencies_of_table_8_are_a_third(planner: Planner, tokens: int, bound_ms: float) -> None:
    found = planner.estimate("qwen2.5-vl-7b", "l40s", Workload(text_tokens=tokens, output_tokens=2))
    assert 1e3 * found.tpot_s == pytest.approx(bound_ms, abs=0.05)
