"""What every token rule keeps to, found without a list."""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.tokens import rule, rules
from lvlm_atlas.roofline.tokens.canvas import select_canvas
from lvlm_atlas.roofline.tokens.dynamic_tiling import _grids
from lvlm_atlas.roofline.tokens.sizes import MOST_PIXELS

PARAMS = {
    "fixed": {"tile": 896, "patch": 14, "class_token": False, "token_per_tile": 256, "pan_and_scan": True},
    "smart_resize": {"patch": 14, "merge": 2, "min_pixels": 3136, "max_pixels": 12_845_056, "window": 4},
    "anyres_unpad": {"tile": 336, "patch": 14, "class_token": True, "pinpoints_hw": [[336, 672], [672, 336]]},
    "anyres_max": {"tile": 384, "patch": 14, "max_side": 6, "max_tiles": 9},
    "dynamic_tiling": {
        "tile": 448, "patch": 14, "class_token": True, "min_tiles": 1, "max_tiles": 12, "token_per_tile": 256,
        "thumbnail": True,
    },
    "mllama_canvas": {"tile": 560, "patch": 14, "max_tiles": 4},
    "minicpm_slice": {"scale": 448, "patch": 14, "max_slices": 9, "queries": 64},
    "deepseek_vl2_tiles": {"tile": 384, "patch": 14, "merge": 2, "max_tiles": 9, "max_tiled_images": 2},
    "covering_tiles": {"tile": 448, "patch": 14, "max_tiles": 9, "token_per_tile": 256},
    "hd_transform": {"tile": 336, "patch": 14, "class_token": True, "merge": 2, "num_crops": 16},
    "idefics3_split": {"tile": 384, "patch": 14, "longest_edge": 1536, "token_per_tile": 81},
    "dynamic_s2": {"patch": 14, "scales": [448, 896, 1344], "max_tiles": 12, "token_per_tile": 256},
    "still_clip_resize": {"patch": 14, "merge": 2, "temporal": 2, "min_pixels": 12_544, "max_pixels": 9_633_792},
    "pixtral_grid": {"patch": 14, "merge": 2, "longest_edge": 1540},
    "navit_pad": {"patch": 14, "merge": 2, "max_patches": 4096},
    "framed_crops": {"frame": 1024, "tile": 640, "patch": 64, "min_tiles": 2, "max_tiles": 6},
    "overlapping_crops": {"tile": 378, "patch": 14, "pool": 2, "margin": 4, "max_crops": 8},
    "padded_crops": {"tile": 448, "patch": 14, "max_crops": 36},
    "patch_budget": {"patch": 16, "merge": 3, "max_tokens": 280},
    "canvas_tiles": {"tile": 336, "patch": 14, "class_token": True, "max_tiles": 16, "token_per_tile": 144},
    "video_smart_resize": {
        "patch": 14, "merge": 2, "temporal": 2, "min_pixels": 100_352, "max_pixels": 602_112,
        "total_pixels": 90_316_800,
    },
    "video_clip_resize": {"patch": 16, "merge": 2, "temporal": 2, "min_pixels": 1, "max_pixels": 10**12},
    "video_frames_as_tiles": {"tile": 448, "patch": 14, "class_token": True, "token_per_frame": 256},
    "video_frames_as_images": {
        "rule": "minicpm_slice", "scale": 448, "patch": 14, "max_slices": 1, "queries": 64,
    },
}  # fmt: skip
IMAGE_RULES = sorted(name for name in rules() if not name.startswith("video_"))
VIDEO_RULES = sorted(name for name in rules() if name.startswith("video_"))
BOUND = {
    "fixed": 5, "dynamic_tiling": 13, "anyres_unpad": 3, "anyres_max": 37, "mllama_canvas": 1, "minicpm_slice": 10,
    "covering_tiles": 10, "deepseek_vl2_tiles": 10, "hd_transform": 17, "idefics3_split": 17, "dynamic_s2": 17,
    "smart_resize": 1, "still_clip_resize": 1, "pixtral_grid": 1, "navit_pad": 1, "patch_budget": 1, "canvas_tiles": 17,
    "padded_crops": 37,
    "overlapping_crops": 9,
    "framed_crops": 7,
}  # fmt: skip
"""Most encoder sequences of an image under the constants above."""
SIZES = st.tuples(st.integers(1, 8000), st.integers(1, 8000)).filter(lambda size: max(size) <= 200 * min(size))


MOST_ASPECT = {"padded_crops": 40}
"""Longer side by shorter one of the thinnest image that a rule takes, where that is less than `SIZES` holds."""


def assume_taken(name, *sizes):
    assume(all(max(size) <= MOST_ASPECT.get(name, 200) * min(size) for size in sizes))


def see(name, *sizes):
    return rule(name)(sizes, **PARAMS[name])


def test_every_rule_is_tried_here():
    assert set(PARAMS) == set(rules())


def test_rules_take_constants_by_keyword_only():
    for name, function in rules().items():
        kinds = [each.kind for each in inspect.signature(function).parameters.values()]
        positional = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
        assert positional == (3 if name.startswith("video_") else 1), name


def test_a_misspelt_rule_is_refused_with_the_nearest():
    with pytest.raises(AtlasError, match="'smart_resise'; did you mean 'smart_resize'"):
        rule("smart_resise")
    with pytest.raises(AtlasError):
        rule("canvas")


@pytest.mark.parametrize("name", IMAGE_RULES)
@given(size=SIZES)
def test_an_image_costs_something_and_within_the_bounds_of_its_rule(name, size):
    assume_taken(name, size)
    visual = see(name, size)
    assert 1 <= sum(each.sequences for each in visual.patches) <= BOUND[name]
    assert visual.adapter_token >= 1
    assert visual.llm_token >= 1
    for each in visual.patches:
        assert 1 <= each.patch <= each.token
        assert each.window_pair is None or each.token <= each.window_pair <= each.token**2
    assert visual == see(name, size), "a rule has no memory"


# The others compare quotients of width to height, which lie otherwise once turned, or round them.
@pytest.mark.parametrize(
    "name",
    sorted(
        {*IMAGE_RULES}
        - {"dynamic_s2", "dynamic_tiling", "idefics3_split", "minicpm_slice", "padded_crops", "framed_crops"}
    ),
)
@given(size=SIZES)
def test_turning_an_image_leaves_the_encoders_work(name, size):
    assume_taken(name, size)
    assert see(name, size[::-1]).encoder_token == see(name, size).encoder_token


@pytest.mark.parametrize("name", sorted(set(IMAGE_RULES) - {"deepseek_vl2_tiles", "dynamic_s2", "anyres_max"}))
@given(sizes=st.lists(SIZES, max_size=3))
def test_images_that_do_not_know_of_each_other_add_up(name, sizes):
    assume_taken(name, *sizes)
    together, alone = see(name, *sizes), [see(name, size) for size in sizes]
    for field in ("encoder_token", "adapter_token", "llm_token", "cross_token", "frames"):
        assert getattr(together, field) == sum(getattr(each, field) for each in alone)
    assert len(set(together.patches)) == len(together.patches)


def test_no_image_lies_between_two_grids_of_as_many_tiles():
    for least, most in ((1, 12), (9, 12), (1, 6)):
        grids = sorted(_grids(least, most), key=lambda grid: grid[0] / grid[1])
        for one, two in pairwise(grids):
            assert math.prod(one) != math.prod(two)


@given(size=SIZES)
def test_the_chosen_canvas_keeps_as_many_pixels_as_any(size):
    canvases = [(336, 672), (672, 336), (672, 672)]

    def kept(canvas):
        scale = min(canvas[1] / size[0], canvas[0] / size[1])
        return min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])

    assert kept(select_canvas(*size, canvases)) == max(map(kept, canvases))


@pytest.mark.parametrize("name", VIDEO_RULES)
@given(size=SIZES, frames=st.integers(2, 64))
def test_more_frames_of_a_video_never_cost_the_encoder_less_below_the_budget(name, size, frames):
    one, more = (rule(name)(*size, count, **PARAMS[name]) for count in (frames, frames + 2))
    assert 1 <= one.encoder_token < more.encoder_token
    assert 1 <= one.llm_token < more.llm_token


@pytest.mark.parametrize("name", IMAGE_RULES)
@pytest.mark.parametrize("size", [(0, 10), (10, -1), (float("nan"), 10), (10, float("inf")), (10.5, 10)])
def test_a_size_that_no_image_has_is_refused(name, size):
    with pytest.raises(AtlasError, match=r"image .*: each side must be a whole number of pixels"):
        see(name, size)


@pytest.mark.parametrize("name", IMAGE_RULES)
def test_an_image_that_pillow_would_not_open_is_refused(name):
    assert see(name, (13_377, 13_377)).llm_token
    with pytest.raises(AtlasError, match=r"image 13378x13378: .* twice Pillow's MAX_IMAGE_PIXELS"):
        see(name, (13_378, 13_378))


def test_the_limit_is_pillows_own():
    image = pytest.importorskip("PIL.Image")
    assert 2 * image.MAX_IMAGE_PIXELS == MOST_PIXELS


def test_slivers_are_refused_where_the_processor_refuses_them():
    with pytest.raises(AtlasError) as raised:
        see("smart_resize", (30_000, 100))
    assert str(raised.value) == (
        "image 30000x100: one side is 300 times the other, 200 is the most that smart_resize takes; crop the image"
    )
    with pytest.raises(AtlasError, match="video 30000x100: one side is 300 times"):
        rule("video_smart_resize")(30_000, 100, 4, **PARAMS["video_smart_resize"])
    with pytest.raises(AtlasError, match="image 9x500 shrinks to 8x448 pixels, too few a side; crop it"):
        rule("padded_crops")([(9, 500)], tile=448, patch=14, max_crops=1)
    with pytest.raises(AtlasError, match=r"image 1x6000: .* scales it to nothing; crop the image"):
        see("hd_transform", (1, 6000))


@pytest.mark.parametrize("name", VIDEO_RULES)
@pytest.mark.parametrize(("size", "frames"), [((640, 480), 0), ((640, 480), math.nan), ((0, 480), 8)])
def test_a_video_of_no_frames_or_no_size_is_refused(name, size, frames):
    with pytest.raises(AtlasError, match=r"^video "):
        rule(name)(*size, frames, **PARAMS[name])
