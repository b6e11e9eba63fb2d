"""Frames that techniques resize: each size on its own, sides of whole tokens, limits before the model's own least."""

from __future__ import annotations

from typing import Any

import pytest

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.dimensions import dimensions
from lvlm_atlas.roofline.layout import layout
from lvlm_atlas.roofline.pipeline import Walk
from lvlm_atlas.roofline.transform import Applied, Change
from lvlm_atlas.roofline.vision import visual
from lvlm_atlas.roofline.visual import Visual
from lvlm_atlas.roofline.workload import Image, Video, Workload

PLANNER = Planner()
QWEN = PLANNER.model("qwen2.5-vl-7b")


def resizer(name: str, change: Change) -> Applied:
    return Applied(id=name, label=name, parameters={}, changes=(change,))


def resized(workload: Workload, *changes: Any, model: str = "qwen2.5-vl-7b") -> Visual:
    """What is left of a request's visual input after changes of its pixels, each a how and an amount."""
    ready = [resizer(f"resizer-{i}", Change(quantity="pixels", order=2, how=how, amount=amount))
             for i, (how, amount) in enumerate(changes)]  # fmt: skip
    of = PLANNER.model(model)
    return Walk(dimensions(layout(of, 1, Deployment()), workload), ready).encoded().visual


def images(*sizes: tuple[int, int]) -> Workload:
    return Workload(images=tuple(Image(*size) for size in sizes))


def test_a_limit_is_held_against_each_image_and_not_against_their_average() -> None:
    small, large = (280, 280), (1120, 1120)
    both = resized(images(small, large), ("cap", 560 * 560))
    assert both.pixels == (280 * 280, 560 * 560)
    assert both.llm_token == 100 + 400


def test_sides_round_down_to_whole_tokens() -> None:
    half = resized(images((560, 1120)), ("scale", 0.5))
    assert (half.llm_token, half.pixels) == (14 * 28, (14 * 28 * 28 * 28,))


def test_a_limit_that_binds_nowhere_changes_nothing() -> None:
    workload = images((333, 777), (56, 90))
    assert resized(workload, ("cap", 10**9)) == resized(workload) == visual(QWEN, workload)


def test_what_the_model_makes_of_the_frame_is_what_a_limit_is_held_against() -> None:
    """1000 × 1003 pixels are fewer than 1280 tokens' worth, but round to 36 × 36 tokens, which are more."""
    workload = images((1003, 1000))
    assert visual(QWEN, workload).llm_token == 36 * 36
    assert resized(workload, ("cap", 1280 * 784)).llm_token <= 1280


def test_changes_follow_one_another() -> None:
    workload = images((1120, 1120))
    assert resized(workload, ("scale", 0.5), ("scale", 0.5)) == resized(workload, ("scale", 0.25))
    assert resized(workload, ("cap", 560 * 560), ("scale", 0.25)) == resized(workload, ("set", 280 * 280))


def test_a_video_shrinks_below_the_least_that_the_model_asks_for() -> None:
    """The model's own least of a video's frame is 128 tokens."""
    workload = Workload(videos=(Video(560, 560, duration_s=4),))
    whole, quarter = resized(workload), resized(workload, ("scale", 0.25))
    assert whole.frames == quarter.frames
    assert (whole.pixels, quarter.pixels) == ((560 * 560,), (280 * 280,))
    assert quarter.llm_token * 4 == whole.llm_token


def test_fewer_frames_and_fewer_pixels_come_together() -> None:
    workload = Workload(videos=(Video(560, 560, duration_s=8),))
    frames = resizer("frames", Change(quantity="frames", order=1, how="scale", amount=0.5))
    pixels = resizer("pixels", Change(quantity="pixels", order=2, how="scale", amount=0.25))
    sizes = dimensions(layout(QWEN, 1, Deployment()), workload)
    left = Walk(sizes, [frames, pixels]).encoded().visual
    assert left.llm_token * 8 == visual(QWEN, workload).llm_token


@pytest.mark.parametrize("model", ["llava-1.5-7b", "gemma-3-12b"])
def test_a_tower_of_one_size_saves_nothing(model: str) -> None:
    workload = images((1120, 560))
    small = resized(workload, ("scale", 0.25), model=model)
    assert small.pixels == (560 * 280,)
    assert small.llm_token == resized(workload, model=model).llm_token


def test_fewer_tiles_are_cut_of_a_smaller_image() -> None:
    workload = images((1344, 1344))
    small, whole = (resized(workload, *change, model="internvl3-8b") for change in ([("scale", 0.1)], []))
    assert 0 < small.llm_token < whole.llm_token
