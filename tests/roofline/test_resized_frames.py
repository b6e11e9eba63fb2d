"""Frames that techniques resize: each size on its own, sides of whole tokens, limits before the model's own least."""

from __future__ import annotations

from dataclasses import replace
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
    assert resized(workload, ("scale", 0.25), ("scale", 0.25)) == resized(workload, ("scale", 0.0625))
    assert resized(workload, ("cap", 560 * 560), ("scale", 0.25)) == resized(workload, ("set", 280 * 280))


def test_sides_become_whole_tokens_after_each_technique() -> None:
    """Half of 40 × 40 tokens are 28.3 on a side, and half of 28 × 28 are 19.8; a quarter of 40 × 40 are 20."""
    workload = images((1120, 1120))
    assert resized(workload, ("scale", 0.5), ("scale", 0.5)).llm_token == 19 * 19
    # Of 5 × 5 tokens, 30 are 5.5 on a side: what grows rounds up, whatever was larger before.
    assert resized(workload, ("set", 25 * 784), ("set", 30 * 784)).llm_token == 6 * 6
    assert resized(workload, ("set", 30 * 784)).llm_token == 5 * 5


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


def levels(*shares: tuple[Any, float]) -> Applied:
    """A technique that keeps a share of the pixels in each of so many frames."""
    changes = (Change(quantity="pixels", order=2, how="scale", amount=share, frames=frames) for frames, share in shares)
    return Applied(id="levels", label="levels", parameters={}, changes=tuple(changes))


def left_by(stack: list[Applied], workload: Workload, model: str = "qwen2.5-vl-7b") -> Visual:
    return Walk(dimensions(layout(PLANNER.model(model), 1, Deployment()), workload), stack).encoded().visual


def test_frames_of_one_size_are_resized_to_several() -> None:
    workload = Workload(images=(Image(1120, 1120, count=7),))
    left = left_by([levels((1, 0.25), (2, 0.0625))], workload)
    assert left.llm_token == 400 + 2 * 100 + 4 * 1600  # what no level holds for stays
    assert left.frames == 7
    assert left.pixels == (pytest.approx((560**2 + 2 * 280**2 + 4 * 1120**2) / 7),)


def test_a_change_of_no_number_of_frames_holds_for_the_others() -> None:
    workload = Workload(images=(Image(1120, 1120, count=7),))
    rest = Change(quantity="pixels", order=2, how="set", amount=280 * 280)
    first = levels((2, 0.25))
    assert left_by([replace(first, changes=(*first.changes, rest))], workload).llm_token == 2 * 400 + 5 * 100


def test_no_more_frames_are_resized_than_there_are() -> None:
    workload = Workload(images=(Image(1120, 1120, count=3),))
    fewer = left_by([levels((2, 0.25), (5, 0.0625))], workload)
    assert fewer.llm_token == 2 * 400 + 100
    assert left_by([levels((9, 0.25), (5, 0.0625))], workload) == resized(workload, ("scale", 0.25))
    assert left_by([levels((0, 0.25), (0, 0.0625))], workload) == resized(workload)


def test_levels_count_what_is_left_of_the_frames() -> None:
    workload = Workload(images=(Image(1120, 1120, count=8),))
    half = resizer("half", Change(quantity="frames", order=1, how="scale", amount=0.5))
    by_frames = levels((lambda names: names["F"] - 1, 0.25), (1, 0.0625))
    assert left_by([half, by_frames], workload).llm_token == 3 * 400 + 100


def test_what_follows_changes_the_frames_of_each_level() -> None:
    workload = Workload(images=(Image(1120, 1120, count=4),))
    cap = resizer("cap", Change(quantity="pixels", order=2, how="cap", amount=280 * 280))
    assert left_by([levels((1, 0.25), (3, 1 / 64)), cap], workload).llm_token == 100 + 3 * 25
    assert left_by([cap, levels((1, 0.25))], workload).llm_token == 25 + 3 * 100
    both = left_by([levels((2, 0.25)), replace(levels((2, 0.25)), id="again")], workload)
    assert both.llm_token == 100 + 2 * 400 + 1600  # half of each half


def test_a_level_has_its_share_of_the_frames_of_each_size() -> None:
    workload = Workload(images=(Image(1120, 1120, count=2), Image(560, 560, count=2)))
    left = left_by([levels((2, 0.25))], workload)
    assert left.llm_token == 400 + 1600 + 100 + 400  # one of each size is resized
    assert left.pixels == ((560**2 + 1120**2) / 2, (280**2 + 560**2) / 2)
    video = Workload(videos=(Video(560, 560, duration_s=8),))
    whole = resized(video)
    assert left_by([levels((whole.frames / 2, 0.25))], video).llm_token * 8 == whole.llm_token * 5
