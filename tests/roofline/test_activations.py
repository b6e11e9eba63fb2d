"""Activations are those of what a pass handles, and say how much fits beside them."""

from __future__ import annotations

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import TYPICAL, Deployment
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.workload import Image, Workload

PICTURE = Workload(images=(Image(640, 480),), text_tokens=128, output_tokens=1)
"""519 tokens of Qwen2.5-VL, 391 of them visual."""


def of(planner: Planner, budget: int | None, batch: int = 1, **other: object) -> Estimate:
    """The picture on an H100."""
    deployment = Deployment(token_budget=budget, **other)  # type: ignore[arg-type]
    request = Workload(images=PICTURE.images, text_tokens=128, output_tokens=1, batch=batch)
    return planner.estimate("qwen2.5-vl-7b", "h100", request, deployment=deployment)


def test_without_a_budget_activations_grow_with_the_batch(planner: Planner) -> None:
    one, many = (of(planner, None, batch).memory.activation_byte for batch in (1, 100))
    assert many == pytest.approx(100 * one)


def test_a_budget_bounds_them_however_many_requests_there_are(planner: Planner) -> None:
    """8,192 tokens are 15.8 such prompts: hidden states and the widest intermediate of each, 16 bits a number."""
    few, many = (of(planner, 8192, batch).memory.activation_byte for batch in (10, 1000))
    model = planner.model("qwen2.5-vl-7b").llm
    hidden = 8192 * (2 * model.hidden + 2 * model.intermediate) * 2
    logits = 8192 / 519 * model.vocab * 2
    assert many == pytest.approx(hidden + logits, rel=1e-6)
    assert few == of(planner, None, 10).memory.activation_byte


def test_an_image_larger_than_the_budget_is_encoded_as_a_whole(planner: Planner) -> None:
    large = Workload(images=(Image(3000, 2000),), text_tokens=8, output_tokens=1)
    small, none = (
        planner.estimate("qwen2.5-vl-7b", "h100", large, deployment=Deployment(token_budget=budget))
        for budget in (256, None)
    )
    assert small.memory.activations.encoder_most == pytest.approx(none.memory.activations.encoder)


def test_a_server_holds_about_two_thousand_pictures_on_an_h100(planner: Planner) -> None:
    """By hand: 84.9 GB less 16.6 of weights, 3.8 of reserve and 0.7 of a pass, over 519 · 57,344 bytes each."""
    found = of(planner, None, efficiency=TYPICAL)
    reserve = 3.758e9
    free = 79.11 * 2**30 - 2 * 8_292_166_656 - reserve - found.memory.activations.beside_others
    assert found.deployment.pass_tokens == 8192
    assert found.fits_at_once == int(free // (519 * 57_344))
    assert 1_900 < found.fits_at_once < 2_200
    assert found.fits_tokens == pytest.approx(found.fits_at_once * 520, rel=1e-3)
    assert found.largest_batch == pytest.approx(found.fits_at_once, rel=0.01)


@pytest.mark.parametrize("budget", [None, 2048])
def test_the_largest_batch_fits_and_the_next_does_not(planner: Planner, budget: int | None) -> None:
    most = of(planner, budget).largest_batch
    assert of(planner, budget, most).fits
    assert not of(planner, budget, most + 1).fits
    assert of(planner, budget, 7).largest_batch == most


def test_what_holds_no_request_has_no_batch(planner: Planner) -> None:
    found = planner.estimate("qwen2.5-vl-72b", "l4", PICTURE)
    assert (found.largest_batch, found.fits_at_once, found.fits_tokens) == (0, 0, 0)


def test_large_devices_but_the_a100_give_a_pass_more_tokens(planner: Planner) -> None:
    budgets = {
        id_: planner.device(id_).typical.token_budget for id_ in ("h100", "h200", "mi300x", "a100", "l4", "3090")
    }
    assert budgets == {"h100": 8192, "h200": 8192, "mi300x": 8192, "a100": 2048, "l4": 2048, "3090": 2048}


@pytest.mark.parametrize("budget", [0, -5])
def test_a_pass_has_a_token_at_least(planner: Planner, budget: int) -> None:
    with pytest.raises(AtlasError, match="token_budget is"):
        of(planner, budget)


@pytest.mark.parametrize(("runtime", "tokens"), [("vllm", 8192), ("transformers", None), ("sglang", 8192)])
def test_a_runtime_that_takes_a_share_of_memory_reads_prompts_in_passes(
    planner: Planner, runtime: str, tokens: int | None
) -> None:
    deployment = planner.paced(Deployment(), runtime=runtime)
    estimate = planner.estimate("qwen2.5-vl-7b", "h100-sxm", Workload(text_tokens=20000), deployment=deployment)
    assert estimate.deployment.pass_tokens == tokens
