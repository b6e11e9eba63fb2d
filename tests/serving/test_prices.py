"""Batches of a server cost what the engine says of the requests in them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lvlm_atlas.roofline.deployment import IDEAL, TYPICAL, Deployment
from lvlm_atlas.serving.decoding import Decoding
from lvlm_atlas.serving.prices import Chunk, Piece

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
    from dataclasses import replace

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
