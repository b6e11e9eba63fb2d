"""Worked examples of each model of the catalog."""

from __future__ import annotations

from typing import Any

import pytest

from lvlm_atlas.roofline.tokens import rule
from lvlm_atlas.roofline.visual import Visual

CLIP = {"tile": 336, "patch": 14, "class_token": True}
QWEN2 = {"patch": 14, "merge": 2, "min_pixels": 3136, "max_pixels": 12_845_056}
QWEN2_5 = QWEN2 | {"window": 4}
QWEN3 = {"patch": 16, "merge": 2, "min_pixels": 65_536, "max_pixels": 16_777_216}
INTERN_TILE = {"tile": 448, "patch": 14, "class_token": True}
SIGLIP_TILE = {"tile": 384, "patch": 14}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llava-1.5-7b llava-1.5-13b": ("fixed", CLIP | {"token_per_tile": 576}),
    "llava-next-7b-vicuna llava-next-7b-mistral": (
        "anyres_unpad",
        CLIP | {"pinpoints_hw": ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))},
    ),
    "llava-onevision-7b": ("anyres_max", SIGLIP_TILE | {"max_side": 6, "max_tiles": 9}),
    "qwen2-vl-7b": ("smart_resize", QWEN2),
    "qwen2.5-vl-3b qwen2.5-vl-7b qwen2.5-vl-32b qwen2.5-vl-72b": ("smart_resize", QWEN2_5),
    "qwen3-vl-8b qwen3-vl-30b-a3b qwen3-vl-235b-a22b": ("smart_resize", QWEN3),
    "internvl2.5-8b internvl3-8b internvl3.5-8b internvl3-78b": (
        "dynamic_tiling",
        INTERN_TILE | {"min_tiles": 1, "max_tiles": 12, "token_per_tile": 256, "thumbnail": True},
    ),
    "llama-3.2-11b-vision": ("mllama_canvas", {"tile": 560, "patch": 14, "max_tiles": 4}),
    "minicpm-v-2.6": ("minicpm_slice", {"scale": 448, "patch": 14, "max_slices": 9, "queries": 64}),
    "deepseek-vl2 deepseek-vl2-small deepseek-vl2-tiny": (
        "deepseek_vl2_tiles",
        SIGLIP_TILE | {"merge": 2, "max_tiles": 9, "max_tiled_images": 2},
    ),
    "gemma-3-12b": ("fixed", {"tile": 896, "patch": 14, "class_token": False, "token_per_tile": 256}),
    "phi-3.5-vision": ("hd_transform", CLIP | {"merge": 2, "num_crops": 16, "num_crops_many": 4}),
    "smolvlm-2.2b": ("idefics3_split", SIGLIP_TILE | {"longest_edge": 1536, "token_per_tile": 81}),
    "nvila-8b": ("dynamic_s2", {"patch": 14, "scales": (448, 896, 1344), "max_tiles": 12, "token_per_tile": 256}),
}
"""Rule and constants by the models that share them."""

IMAGES: list[tuple[str, tuple[int, int], int, int, int, dict[str, Any]]] = [
    # model, size, encoder sequences, encoder tokens, LLM tokens, what differs from the model's constants
    ("llava-1.5-7b", (336, 336), 1, 577, 576, {}),
    ("llava-1.5-13b", (1920, 1080), 1, 577, 576, {}),
    ("llava-next-7b-vicuna", (336, 336), 3, 1731, 1176, {}),
    ("llava-next-7b-vicuna", (640, 480), 5, 2885, 2340, {}),
    ("llava-next-7b-vicuna", (672, 672), 5, 2885, 2928, {}),
    ("llava-next-7b-mistral", (1920, 1080), 5, 2885, 1948, {}),
    ("llava-next-7b-mistral", (1000, 2000), 3, 1731, 1776, {}),
    ("llava-onevision-7b", (384, 384), 2, 1458, 1485, {}),
    ("llava-onevision-7b", (640, 480), 5, 3645, 2929, {}),
    ("llava-onevision-7b", (1280, 720), 9, 6561, 5967, {}),
    ("llava-onevision-7b", (1920, 1080), 16, 11_664, 7269, {}),
    ("qwen2-vl-7b", (336, 336), 1, 576, 144, {}),
    ("qwen2-vl-7b", (1280, 720), 1, 4784, 1196, {}),
    ("qwen2-vl-7b", (1920, 1080), 1, 10_764, 2691, {}),
    ("qwen2-vl-7b", (1920, 1080), 1, 4888, 1222, {"max_pixels": 1280 * 28**2}),
    ("qwen2-vl-7b", (3840, 2160), 1, 42_196, 10_549, {}),
    ("qwen2.5-vl-3b", (336, 336), 1, 576, 144, {}),
    ("qwen2.5-vl-7b", (1280, 720), 1, 4784, 1196, {}),
    ("qwen2.5-vl-32b", (1920, 1080), 1, 10_764, 2691, {}),
    ("qwen2.5-vl-72b", (1920, 1080), 1, 4888, 1222, {"max_pixels": 1280 * 28**2}),
    ("qwen3-vl-8b", (512, 512), 1, 1024, 256, {}),
    ("qwen3-vl-8b", (1280, 720), 1, 3520, 880, {}),
    ("qwen3-vl-30b-a3b", (1366, 980), 1, 5332, 1333, {}),
    ("qwen3-vl-30b-a3b", (1024, 1024), 1, 4096, 1024, {}),
    ("qwen3-vl-235b-a22b", (1533, 1157), 1, 6912, 1728, {}),
    ("qwen3-vl-235b-a22b", (2560, 1361), 1, 13_760, 3440, {}),
    ("qwen3-vl-8b", (1920, 1080), 1, 8160, 2040, {}),
    ("qwen3-vl-8b", (3840, 2160), 1, 32_640, 8160, {}),
    ("internvl2.5-8b", (448, 448), 1, 1025, 256, {}),
    ("internvl3-8b", (800, 600), 13, 13_325, 3328, {}),
    ("internvl3-78b", (1280, 720), 9, 9225, 2304, {}),
    ("internvl3.5-8b", (1920, 1080), 9, 9225, 2304, {}),
    ("internvl3.5-8b", (4096, 1024), 5, 5125, 1280, {}),
    ("llama-3.2-11b-vision", (448, 448), 1, 1601, 1, {}),
    ("llama-3.2-11b-vision", (1280, 720), 1, 6404, 1, {}),
    ("llama-3.2-11b-vision", (1120, 1120), 1, 6404, 1, {}),
    ("llama-3.2-11b-vision", (560, 2240), 1, 6404, 1, {}),
    ("minicpm-v-2.6", (448, 448), 1, 1024, 64, {}),
    ("minicpm-v-2.6", (1280, 720), 7, 7122, 448, {}),
    ("minicpm-v-2.6", (1344, 1344), 10, 10_240, 640, {}),
    ("minicpm-v-2.6", (1920, 1080), 9, 9192, 576, {}),
    ("deepseek-vl2", (384, 384), 2, 1458, 421, {}),
    ("deepseek-vl2-small", (640, 480), 5, 3645, 1023, {}),
    ("deepseek-vl2-tiny", (1920, 1080), 9, 6561, 1807, {}),
    ("deepseek-vl2", (1152, 1152), 10, 7290, 2017, {}),
    ("gemma-3-12b", (896, 896), 1, 4096, 256, {}),
    ("gemma-3-12b", (1920, 1080), 1, 4096, 256, {}),
    ("gemma-3-12b", (1920, 1080), 3, 12_288, 768, {"pan_and_scan": True}),
    ("phi-3.5-vision", (336, 336), 17, 9809, 2509, {}),
    ("phi-3.5-vision", (640, 480), 13, 7501, 1921, {}),
    ("phi-3.5-vision", (1920, 1080), 16, 9232, 2353, {}),
    ("phi-3.5-vision", (1920, 1080), 5, 2885, 757, {"num_crops": 4}),
    ("smolvlm-2.2b", (384, 384), 17, 12_393, 1377, {}),
    ("smolvlm-2.2b", (640, 480), 13, 9477, 1053, {}),
    ("smolvlm-2.2b", (1920, 1080), 13, 9477, 1053, {}),
    ("smolvlm-2.2b", (1920, 1080), 5, 3645, 405, {"longest_edge": 768}),
    ("nvila-8b", (1344, 1344), 14, 14_336, 2304, {}),
    ("nvila-8b", (1280, 720), 17, 17_408, 3072, {}),
    ("nvila-8b", (1920, 1080), 17, 17_408, 3072, {}),
]


def see(model: str, *sizes: tuple[int, int], **other: Any) -> Visual:
    name, params = next(entry for models, entry in MODELS.items() if model in models.split())
    return rule(name)(sizes, **(params | other))


@pytest.mark.parametrize(("model", "size", "sequences", "encoder_token", "llm_token", "other"), IMAGES)
def test_an_image_costs_what_its_rule_says(model, size, sequences, encoder_token, llm_token, other):
    visual = see(model, size, **other)
    assert sum(each.sequences for each in visual.patches) == sequences
    assert visual.encoder_token == encoder_token
    assert visual.llm_token == llm_token
    assert visual.frames == 1


def test_the_examples_are_of_all_models():
    assert {model for model, *_ in IMAGES} == {model for models in MODELS for model in models.split()}
    assert len({model for model, *_ in IMAGES}) == 26


@pytest.mark.parametrize(
    ("size", "window_pair", "full_pair"),
    [((336, 336), 36_864, 331_776), ((1280, 720), 288_000, 22_886_656), ((1920, 1080), 668_304, 115_863_696)],
)
def test_windows_of_qwen2_5_leave_so_many_pairs(size, window_pair, full_pair):
    (patches,) = see("qwen2.5-vl-7b", size).patches
    assert patches.window_pair == window_pair
    assert patches.token**2 == full_pair
    assert see("qwen2-vl-7b", size).patches[0].window_pair is None


@pytest.mark.parametrize(("size", "token"), [((448, 448), 1601), ((1280, 720), 6404), ((560, 2240), 6404)])
def test_llama_reads_all_tiles_of_an_image_through_cross_attention(size, token):
    visual = see("llama-3.2-11b-vision", size)
    assert visual.cross_token == visual.adapter_token == token
    assert [each.token for each in visual.patches] == [token]
    assert visual.patches[0].patch == token // 1601 * 1600


@pytest.mark.parametrize(
    ("model", "token", "other"),
    [
        ("llava-next-7b-vicuna", 2880, {}),
        ("qwen2-vl-7b", 2691, {}),
        ("qwen2.5-vl-7b", 2691, {}),
        ("internvl2.5-8b", 2304, {}),
        ("phi-3.5-vision", 757 - 36 - 1, {"num_crops": 4}),  # the trace counts separators, which no matrix makes
    ],
)
def test_the_adapter_writes_the_rows_of_the_traced_run(model, token, other):
    assert see(model, (1920, 1080), **other).adapter_token == token


@pytest.mark.parametrize(
    ("model", "adapter_token"),
    [
        ("llava-1.5-7b", 576), ("llava-onevision-7b", 16 * 729), ("nvila-8b", 12 * 256), ("gemma-3-12b", 256),
        ("minicpm-v-2.6", 9 * 64), ("smolvlm-2.2b", 13 * 81), ("deepseek-vl2", 9 * 196), ("phi-3.5-vision", 16 * 144),
    ],
)  # fmt: skip
def test_the_adapter_writes_rows_that_are_thrown_away_and_none_that_are_learned(model, adapter_token):
    assert see(model, (1920, 1080)).adapter_token == adapter_token


VIDEO_2_5 = {
    "patch": 14, "merge": 2, "temporal": 2, "min_pixels": 128 * 28**2, "max_pixels": 768 * 28**2,
    "total_pixels": 115_200 * 28**2, "window": 4,
}  # fmt: skip
VIDEOS: list[tuple[str, int, int, int, dict[str, Any]]] = [
    ("video_smart_resize", 10, 14_400, 3600, VIDEO_2_5),
    ("video_smart_resize", 120, 172_800, 43_200, VIDEO_2_5),
    ("video_frames_as_tiles", 8, 8200, 2048, INTERN_TILE | {"token_per_frame": 256}),
    ("video_frames_as_tiles", 64, 65_536, 16_384, {"tile": 448, "patch": 14, "class_token": False,
                                                   "token_per_frame": 256}),
    ("video_frames_as_tiles", 32, 23_328, 6273, SIGLIP_TILE | {"class_token": False, "token_per_frame": 196,
                                                               "adapter_token_per_frame": 729, "newline_token": 1}),
    ("video_frames_as_images", 3, 3 * 2885, 3 * 757, {"rule": "hd_transform", **CLIP, "merge": 2, "num_crops": 4}),
    ("video_frames_as_images", 2, 2 * 1032, 128, {"rule": "minicpm_slice", "scale": 448, "patch": 14, "queries": 64,
                                                  "max_slices": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "frames", "encoder_token", "llm_token", "params"), VIDEOS)
def test_a_video_of_1280_x_720_costs_what_its_rule_says(name, frames, encoder_token, llm_token, params):
    visual = rule(name)(1280, 720, frames, **params)
    assert (visual.encoder_token, visual.llm_token, visual.frames) == (encoder_token, llm_token, frames)


def test_two_frames_of_qwen_are_one_sequence_and_an_odd_last_one_is_repeated():
    patches = [rule("video_smart_resize")(1280, 720, frames, **VIDEO_2_5).patches for frames in (9, 10)]
    assert patches[0] == patches[1]
    assert patches[1][0].sequences == 5


def test_adapter_rows_of_a_frame_come_before_pooling():
    name, frames, _, _, params = VIDEOS[4]
    assert rule(name)(640, 480, frames, **params).adapter_token == frames * 729


@pytest.mark.parametrize(
    ("model", "count", "llm_token", "sequences"),
    [
        ("deepseek-vl2", 2, 2 * 1807, 18),
        ("deepseek-vl2", 3, 3 * 421, 6),
        ("nvila-8b", 2, 512, 2),
        ("llava-onevision-7b", 2, 2 * 730, 2),
        ("phi-3.5-vision", 2, 2 * 757, 10),
        ("llava-next-7b-vicuna", 2, 2 * 1948, 10),
        ("llama-3.2-11b-vision", 2, 2, 2),
    ],
)
def test_several_images_of_a_request_may_each_cost_less(model, count, llm_token, sequences):
    visual = see(model, *[(1920, 1080)] * count)
    assert (visual.llm_token, sum(each.sequences for each in visual.patches)) == (llm_token, sequences)
    assert visual.frames == count
    assert len(visual.patches) == 1, "equal shapes are one entry"


@pytest.mark.parametrize("models", MODELS)
def test_a_request_without_images_costs_nothing(models):
    assert see(models.split()[0]) == Visual((), 0, 0)
