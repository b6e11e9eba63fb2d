"""Batches of a server cost what the engine says of the requests in them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from lvlm_atlas.roofline.deployment import IDEAL, TYPICAL, Deployment
from lvlm_atlas.serving.decoding import Decoding
from lvlm_atlas.serving.prices import Chunk, Prices
from lvlm_atlas.serving.vision import Piece
from lvlm_atlas.specs.stack import stacked

MODELS = ["qwen2.5-vl-7b", "llava-1.5-7b", "gemma-3-12b", "llama-3.2-11b-vision", "qwen3-vl-30b-a3b", "deepseek-vl2"]


def request_s(priced, workload) -> tuple[float, float, float]:
    """Encoding, prefilling and decoding of one request alone."""
    shape = priced.shape(workload)
    decoding = Decoding()
    decoding.add(0, shape, 1)
    steps = (shape.output - 1) / shape.step_token
    return (
        priced.encode([Piece(shape, shape.frames)]).time_s,
        priced.step([Chunk(shape, 0, shape.prompt)]).time_s,
        priced.step((), decoding, steps).time_s,
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("efficiency", "shards"), [(IDEAL, 1), (TYPICAL, 2)])
def test_one_request_alone_costs_what_an_estimate_says(planner, prices, model, efficiency, shards) -> None:
    workload = planner.workload("single-image-chat")
    whole = planner.estimate(
        model, "h100-sxm", workload, deployment=Deployment(efficiency=efficiency, tensor_parallel=shards)
    )
    parts = request_s(prices(model, efficiency=efficiency, tensor_parallel=shards), workload)
    assert parts == pytest.approx([stage.time_s for stage in whole.stages.values()], rel=1e-12)


@pytest.mark.parametrize("runtime", ["vllm", "transformers", "sglang"])
def test_so_it_does_in_a_runtime_whose_host_works_before_the_devices_do(planner, prices, runtime: str) -> None:
    workload = planner.workload("single-image-chat")
    deployment = planner.paced(Deployment(), runtime=runtime)
    whole = planner.estimate("qwen2.5-vl-7b", "h100-sxm", workload, deployment=deployment)
    priced = Prices(planner.model("qwen2.5-vl-7b"), planner.device("h100-sxm"), deployment)
    encoding, prefilling, decoding = request_s(priced, workload)
    before = priced.prepare_s(priced.shape(workload))
    assert before + encoding + prefilling == pytest.approx(whole.ttft_s, rel=1e-12)
    assert decoding == pytest.approx(whole.stages["decoding"].time_s, rel=1e-12)


@pytest.mark.parametrize("stack", ["fastv", "visionzip", "divprune", "fastv+kivi", "tome"])
def test_so_it_does_with_techniques(planner, prices, stack: str) -> None:
    workload = planner.workload("single-image-chat")
    whole = planner.estimate(
        "llava-1.5-7b", "h100-sxm", workload, stack=stack, deployment=Deployment(efficiency=TYPICAL)
    )
    parts = request_s(prices("llava-1.5-7b", stack), workload)
    # The bytes of a quantised cache rise and fall with its length; an estimate samples them.
    rel = [1e-12, 1e-12, 1e-3 if "kivi" in stack else 1e-12]
    for part, stage, within in zip(parts, whole.stages.values(), rel, strict=True):
        assert part == pytest.approx(stage.time_s, rel=within)


def test_a_batch_of_equal_requests_costs_what_an_estimate_of_the_batch_says(planner, prices) -> None:
    workload, priced = planner.workload("single-image-chat"), prices()
    whole = planner.estimate(
        "qwen2.5-vl-7b", "h100-sxm", replace(workload, batch=8), deployment=Deployment(efficiency=TYPICAL)
    )
    shape = priced.shape(workload)
    decoding = Decoding()
    for key in range(8):
        decoding.add(key, shape, 1)
    assert priced.encode([Piece(shape, 1)] * 8).time_s == pytest.approx(whole.stages["encoding"].time_s, rel=1e-12)
    assert priced.step((), decoding, shape.output - 1).time_s == pytest.approx(
        whole.stages["decoding"].time_s, rel=1e-12
    )
    # Eight prompts in a step start the kernels of attention once, and so does the estimate.
    prompts = priced.step([Chunk(shape, 0, shape.prompt)] * 8).time_s
    assert prompts == pytest.approx(whole.stages["prefilling"].time_s, rel=2e-3)


@pytest.mark.parametrize("model", ["qwen2.5-vl-7b", "gemma-3-12b", "llama-3.2-11b-vision"])
def test_a_prompt_in_parts_computes_as_much_and_reads_weights_once_more_a_part(planner, prices, model) -> None:
    priced = prices(model)
    shape = priced.shape(planner.request("single-image-chat", text=4000))
    whole = priced.step([Chunk(shape, 0, shape.prompt)])
    cut = [0, 1000, 1001, 3000, shape.prompt]
    parts = [priced.step([Chunk(shape, a, b - a)]) for a, b in pairwise(cut)]
    assert sum(each.compute_s for each in parts) == pytest.approx(whole.compute_s, rel=1e-9)
    weights_s = sum(each.memory_s for each in parts) - whole.memory_s
    assert weights_s > 3 * 0.8 * 7e9 * 2 / (3.35e12 * 0.8)
    assert sum(each.time_s for each in parts) > whole.time_s


def test_kernels_of_a_selection_start_once_a_step_unless_it_takes_requests_one_by_one(planner, prices) -> None:
    workload, model = planner.workload("single-image-chat"), planner.model("llava-1.5-7b")
    (pruned,) = stacked(planner.kb, "fastv", model, workload)
    assert pruned.overheads
    waits = [replace(each, sequential_steps=100.0, serialises_batch=serial) for each in pruned.overheads
             for serial in (False, True)]  # fmt: skip
    taken = []
    for overhead in waits[:2]:
        one = replace(pruned, overheads=(overhead,))
        priced = Prices(model, planner.device("h100-sxm"), Deployment(efficiency=TYPICAL), lambda _, one=one: (one,))
        chunks = [Chunk(shape, 0, shape.prompt) for shape in (
            priced.shape(replace(workload, text_tokens=100 + each)) for each in range(8))]  # fmt: skip
        taken.append(priced.step(chunks).time_s)
    together, one_by_one = taken
    assert one_by_one - together == pytest.approx(7 * 100 * 3e-6, rel=0.1)


def test_sums_over_a_batch_stay_right_as_it_changes(planner, prices) -> None:
    priced = prices()
    one, two = (priced.shape(planner.request("single-image-chat", text=text)) for text in (10, 900))
    kept = Decoding()
    for key, shape in enumerate([one, two, two, one]):
        kept.add(key, shape, 1 + key)
        kept.advance(3)
    kept.remove(1, two, 2 + 9)
    fresh = Decoding()
    for key, shape, grown in ((0, one, 1 + 12), (2, two, 3 + 6), (3, one, 4 + 3)):
        fresh.add(key, shape, grown)
    assert kept.reads(5) == pytest.approx(fresh.reads(5), rel=1e-12)
    assert priced.step((), kept) == pytest.approx(priced.step((), fresh), rel=1e-12)


def test_an_encoder_on_each_device_takes_a_share_of_the_images_and_sums_nothing(planner, prices) -> None:
    workload = planner.request("images-20", images=8)
    split, own = (
        prices("qwen2.5-vl-7b", tensor_parallel=4, encoder_data_parallel=parallel) for parallel in (False, True)
    )
    alone = prices()
    images = split.shape(workload), own.shape(workload), alone.shape(workload)
    divided, dealt, single = (
        priced.encode([Piece(shape, 8)]).time_s for priced, shape in zip((split, own, alone), images, strict=True)
    )
    two = alone.encode([Piece(images[2], 2)]).time_s
    gather_s = images[1].embedding_byte * 3 / 4 / own.walls.link_byte_s
    assert dealt == pytest.approx(two + gather_s, rel=1e-12)
    assert dealt < divided < single
    # One image keeps one device busy alone.
    assert own.encode([Piece(images[1], 1)]).time_s > split.encode([Piece(images[0], 1)]).time_s
