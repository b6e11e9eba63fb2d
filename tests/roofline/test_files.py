"""The host decodes images and videos before the encoder, at the rates that a deployment gives."""

from __future__ import annotations

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.costs import Costs
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.host import IMAGE_RATE
from lvlm_atlas.roofline.workload import Image, Video, Workload
from lvlm_atlas.specs.stack import stacked

PICTURES = Workload(images=(Image(2000, 1000, count=3),), text_tokens=10, output_tokens=2)
CLIP = Workload(videos=(Video(1000, 500, duration_s=10, source_fps=25),), text_tokens=10, output_tokens=2)


def of(planner: Planner, workload: Workload, runtime: str | None = None, **given: float) -> Estimate:
    """The estimate at these rates."""
    deployment = planner.paced(Deployment(**given), efficiency=None if runtime else "ideal", runtime=runtime)
    return planner.estimate("qwen2.5-vl-7b", "h100-sxm", workload, deployment=deployment)


def test_images_take_their_pixels_as_sent_and_videos_every_frame_of_the_file(planner: Planner) -> None:
    for workload, option, seconds in ((PICTURES, "image_rate", 6 / 50), (CLIP, "video_rate", 0.5 * 250 / 50)):
        free, paid = of(planner, workload), of(planner, workload, **{option: 50})
        assert paid.ttft_s - free.ttft_s == pytest.approx(seconds)
        assert paid.tpot_s == free.tpot_s
        assert any("at 50 megapixels a second" in each for each in paid.assumptions)


def test_each_rate_is_for_its_own_kind_of_file(planner: Planner) -> None:
    assert of(planner, PICTURES, video_rate=1).ttft_s == of(planner, PICTURES).ttft_s
    assert of(planner, CLIP, image_rate=1).ttft_s == of(planner, CLIP).ttft_s


def test_a_rate_of_images_stands_in_for_what_the_runtime_takes(planner: Planner) -> None:
    host = planner.paced(Deployment(), efficiency=None, runtime="vllm").host
    assert host.megapixel_s
    fast = of(planner, PICTURES, "vllm", image_rate=1e6).ttft_s
    assert fast < of(planner, PICTURES, "vllm").ttft_s - 5 * host.megapixel_s


def test_where_a_runtime_says_nothing_of_images_one_core_reads_them(planner: Planner) -> None:
    silent = [id_ for id_, each in planner.atlas.runtimes.items() if not each.times_of and not (
        each.host.image_ms or each.host.megapixel_ms)]  # fmt: skip
    assert silent
    for id_ in silent:
        fast, plain = of(planner, PICTURES, id_, image_rate=1e9), of(planner, PICTURES, id_)
        assert plain.ttft_s - fast.ttft_s == pytest.approx(6 / IMAGE_RATE)
        assert any(f"images at {IMAGE_RATE:g} megapixels" in each for each in plain.assumptions)
    assert not any("megapixels a second" in each for each in of(planner, PICTURES).assumptions), "the bound has no host"


@pytest.mark.parametrize("option", ["image_rate", "video_rate"])
def test_techniques_save_none_of_it_and_plans_count_it_alike(planner: Planner, option: str) -> None:
    """Who selects frames or shrinks images has decoded them."""
    workload, id_ = (PICTURES, "image-downsampling") if option == "image_rate" else (CLIP, "uniform")
    model, device, asked = planner.model("qwen2.5-vl-7b"), planner.device("h100-sxm"), Deployment(**{option: 50})
    stack = stacked(planner.kb, [id_], model, workload)
    free = estimate(model, device, workload, Deployment(), stack)
    paid = estimate(model, device, workload, asked, stack)
    whole = of(planner, workload, **{option: 50}).ttft_s - of(planner, workload).ttft_s
    assert paid.ttft_s - free.ttft_s == pytest.approx(whole)
    assert Costs(model, device, workload, asked, stack).of(1).ttft_s == pytest.approx(paid.ttft_s)


def test_a_rate_is_a_number_of_megapixels(planner: Planner) -> None:
    with pytest.raises(AtlasError, match="image_rate is 0; give megapixels a second"):
        Deployment(image_rate=0)
