"""Weights have types of their own part by part, and scales take bits."""

from __future__ import annotations

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.weights import number_type, parameters_by_part, weights_spelled
from lvlm_atlas.roofline.workload import Image, Workload

REQUEST = Workload(images=(Image(448, 448),), text_tokens=10, output_tokens=2)


def of(planner: Planner, model: str, weight_dtype: str | None, **other: str) -> Estimate:
    """The estimate with weights of these types."""
    return planner.estimate(model, "h200", REQUEST, deployment=Deployment(weight_dtype=weight_dtype, **other))


def test_awq_of_qwen2_vl_has_the_bytes_of_the_published_checkpoint(planner: Planner) -> None:
    """By hand: 28 layers of 233,046,016 weights at 4 + (16 + 4) / 128 bits, and everything else in 16."""
    layers = 28 * (2 * 3584 * (3584 + 512) + 3 * 3584 * 18944)
    rest = planner.model("qwen2-vl-7b").parameters - layers
    found = of(planner, "qwen2-vl-7b", "awq").memory
    assert found.weight_byte == layers * (4 + 20 / 128) / 8 + 2 * rest
    assert round(found.weight_byte / 1e9, 3) == 6.922


def test_awq_of_qwen2_5_vl_is_as_large_as_its_two_files(planner: Planner) -> None:
    """3.98 and 2.94 GB, as the hub lists those of Benasd/Qwen2.5-VL-7B-Instruct-AWQ-2."""
    assert of(planner, "qwen2.5-vl-7b", "int4-g128").memory.weight_byte == pytest.approx(3.98e9 + 2.94e9, abs=0.01e9)


@pytest.mark.parametrize(
    "model",
    ["qwen2.5-vl-7b", "qwen3-vl-30b-a3b", "deepseek-vl2", "gemma-3-12b", "qwen2.5-vl-3b", "llama-3.2-11b-vision"],
)
def test_the_parts_are_all_parameters_and_little_is_left_beside_matrices(planner: Planner, model: str) -> None:
    spec = planner.model(model)
    parts = parameters_by_part(spec)
    assert sum(parts.values()) == spec.parameters
    assert 0 < parts["other"] < 0.005 * spec.llm.parameters
    assert (parts["head"] == 0) == planner.kb.atlas.models[model].llm.tied_embeddings


def test_each_operator_reads_the_type_of_its_part(planner: Planner) -> None:
    plain = of(planner, "qwen3-vl-30b-a3b", None)
    mixed = of(planner, "qwen3-vl-30b-a3b", "llm=int4-g128,head=fp8,encoder=int8")
    expected = {"encoder": 0.5, "adapter": 1, "llm": (4 + 20 / 128) / 16, "llm.output": 0.5, "llm.router": 1}
    for stage in ("encoding", "decoding"):
        for before, after in zip(plain.stages[stage].operators, mixed.stages[stage].operators, strict=True):
            work = before.work
            if work.weight_byte:
                ratio = expected.get(work.name, expected[work.name.partition(".")[0]])
                assert after.work.weight_byte == pytest.approx(ratio * work.weight_byte), work.name


def test_an_output_matrix_that_is_the_embeddings_has_their_type(planner: Planner) -> None:
    tied = of(planner, "qwen2.5-vl-3b", "head=int8")
    plain = of(planner, "qwen2.5-vl-3b", None)
    output = [next(op for op in each.stages["decoding"].operators if op.work.name == "llm.output")
              for each in (tied, plain)]  # fmt: skip
    assert output[0].work.weight_byte == output[1].work.weight_byte / 2
    assert tied.memory.weights["embedding"] == plain.memory.weights["embedding"] / 2


def test_narrow_weights_are_computed_in_sixteen_bits(planner: Planner) -> None:
    assert of(planner, "qwen2.5-vl-7b", "awq").dtype == "bf16"


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("bf16", 16), ("int4", 4), ("int4-g128", 4 + 20 / 128), ("int8-g64", 8 + 24 / 64), ("fp4-g16", 4.5),
        ("fp4-g32", 4.25), ("fp8-g128", 8 + 32 / 128**2), ("nvfp4", 4.5), ("GPTQ", 4 + 20 / 128),
    ],
)  # fmt: skip
def test_scales_take_their_bits(text: str, bits: float) -> None:
    assert number_type(text).bits == bits


def test_the_cache_has_scales_too(planner: Planner) -> None:
    plain, grouped = (of(planner, "qwen2.5-vl-7b", None, kv_dtype=each) for each in ("int4", "int4-g32"))
    assert grouped.memory.kv_byte == pytest.approx(plain.memory.kv_byte * (4 + 20 / 32) / 4)


def test_a_type_for_all_weights_is_called_a_bound(planner: Planner) -> None:
    assert any("a bound. Released" in each for each in of(planner, "qwen2.5-vl-7b", "fp8").assumptions)
    for other in (None, "bf16", "llm=fp8", "awq"):
        assert not any("a bound. Released" in each for each in of(planner, "qwen2.5-vl-7b", other).assumptions)


def test_devices_share_what_is_left_of_the_parts(planner: Planner) -> None:
    model = planner.model("qwen2.5-vl-7b")
    four = planner.estimate(
        model, "h200", REQUEST, deployment=Deployment(weight_dtype="vision=fp8", tensor_parallel=4)
    ).memory
    vision = model.encoder.parameters + model.adapter.parameters
    assert four.held["weights"] == pytest.approx((2 * model.llm.parameters + vision) / 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fp7", "no type of numbers 'fp7'"),
        ("int4-g0", "give a group of 1 number or more, such as int4-g128"),
        ("bf16-g64", "bf16 has no scales of groups; give bf16"),
        ("lmm=int4", "no part 'lmm'; did you mean 'llm'?"),
        ("llm=int4,llm=fp8", "llm has two types; leave one out"),
        ("llm=int4,fp8", "'fp8' names no part; write such as llm=int4-g128,head=bf16"),
        ("other=int4", "no part 'other'"),
        ("llm=", "weight_dtype of llm is ''; give a type such as bf16"),
    ],
)
def test_what_is_no_type_is_told_in_a_line(planner: Planner, text: str, said: str) -> None:
    with pytest.raises(AtlasError) as caught:
        of(planner, "qwen2.5-vl-7b", text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_spellings_of_a_type_are_one() -> None:
    assert weights_spelled("bfloat16") == "bf16"
    assert weights_spelled("llm = awq, head=half") == weights_spelled("llm=int4-g128+head=fp16")
