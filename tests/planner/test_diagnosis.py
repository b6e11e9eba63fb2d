"""One line says what limits a request: the stage, its bound, and what most of that is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.shortage import misfit, too_large
from lvlm_atlas.roofline.deployment import Deployment, Efficiency
from lvlm_atlas.roofline.diagnosis import diagnosis
from lvlm_atlas.roofline.workload import Image, Workload
from lvlm_atlas.specs.request import request

PLANNER = Planner()


def said(workload: Workload, deployment: Deployment | None = None) -> str:
    return diagnosis(PLANNER.estimate("llava-1.5-7b", "h200", workload, deployment=deployment))


ONE = Workload(images=(Image(336, 336),))


def test_a_long_answer_is_bound_by_the_weights_it_reads() -> None:
    line = said(ONE)
    assert line.startswith("decoding is memory-bound and takes 9")
    assert "of its traffic is weights" in line


def test_many_images_in_a_large_batch_are_bound_by_the_visual_cache() -> None:
    line = said(replace(ONE, images=(Image(336, 336, 20),), batch=8))
    assert "of its traffic is visual KV" in line
    estimate = PLANNER.estimate("llava-1.5-7b", "h200", replace(ONE, images=(Image(336, 336, 20),), batch=8))
    assert f"{estimate.visual_kv_share:.0%}".replace("%", " %") in line


def test_a_long_text_in_a_large_batch_is_bound_by_its_own_cache() -> None:
    assert "of its traffic is text KV" in said(replace(ONE, text_tokens=8000, batch=16))


def test_an_answer_of_one_token_is_bound_by_the_linear_layers_of_the_prompt() -> None:
    line = said(replace(ONE, output_tokens=1, text_tokens=2000))
    assert line.startswith("prefilling is compute-bound")
    assert "goes to linear layers" in line


def test_a_very_long_prompt_is_bound_by_attention() -> None:
    assert "goes to attention" in said(replace(ONE, output_tokens=1, images=(Image(336, 336, 2000),)))


def test_slow_kernels_and_slow_links_are_named() -> None:
    slow = Deployment(efficiency=Efficiency(name="custom", kernel_floor_s=1e-3))
    assert "bound by kernel launches" in said(ONE, slow)
    link = replace(PLANNER.device("h200"), link_byte_s=1e3)
    found = PLANNER.estimate("llava-1.5-7b", link, ONE, deployment=Deployment(tensor_parallel=2))
    assert "bound by the link" in diagnosis(found)
    assert "goes to traffic between devices" in diagnosis(found)


def test_what_fits_is_no_misfit() -> None:
    assert misfit(PLANNER.estimate("qwen2.5-vl-7b", "h200")) is None


@pytest.mark.parametrize(
    ("model", "device"), [("qwen2.5-vl-72b", "h200"), ("llava-1.5-13b", "l4"), ("nvila-8b", "a10")]
)
def test_parts_of_a_misfit_add_up_to_what_a_device_must_hold(model: str, device: str) -> None:
    asked = request(PLANNER.workload("images-20"), batch=16)
    found = PLANNER.estimate(model, device, asked)
    line = too_large(found) or ""
    parts = line.partition("(")[2].partition(")")[0].split(", ")
    total = sum(float(part.rpartition(" ")[2]) for part in parts)
    assert total == pytest.approx(found.memory.device_byte / 1e9, abs=0.2)


def test_a_prompt_beyond_the_context_is_refused_whatever_the_device() -> None:
    """Sixty pictures are 71,760 tokens to Qwen2-VL, which is released for 32,768."""
    asked = PLANNER.request(image="1280x720", images=60, text=128)
    line = misfit(PLANNER.estimate("qwen2-vl-7b", "h200", asked)) or ""
    assert line.startswith("the prompt has 71,888 tokens, but Qwen2-VL-7B is released for 32,768")
    assert misfit(PLANNER.estimate("qwen2-vl-7b", "h200", asked, stack="divprune")) is None


def test_an_answer_beyond_the_context_is_cut_by_servers_and_no_misfit() -> None:
    asked = PLANNER.request(image="640x480", text=32_000, output=4_000)
    found = PLANNER.estimate("qwen2-vl-7b", "h200", asked)
    assert found.exceeds_context
    assert found.prompt_fits
    assert misfit(found) is None


def test_a_batch_that_is_too_large_is_told_the_largest_that_fits() -> None:
    asked = PLANNER.request(batch=4000)
    found = PLANNER.estimate("qwen2.5-vl-7b", "h100", asked)
    assert f"give --batch {found.largest_batch}" in (misfit(found) or "")
    for batch, fits in ((found.largest_batch, True), (found.largest_batch + 1, False)):
        assert PLANNER.estimate("qwen2.5-vl-7b", "h100", PLANNER.request(batch=batch)).fits == fits
