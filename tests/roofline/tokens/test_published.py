"""The rules give what the published processors of transformers give, over some 500 sizes.

Their helpers that count without pixels are compared where they exist; a few small images are processed for real.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from lvlm_atlas.roofline.tokens.anyres_max import anyres_max
from lvlm_atlas.roofline.tokens.anyres_unpad import anyres_unpad
from lvlm_atlas.roofline.tokens.canvas import select_canvas
from lvlm_atlas.roofline.tokens.canvas_tiles import canvas_tiles
from lvlm_atlas.roofline.tokens.covering_tiles import covering_tiles
from lvlm_atlas.roofline.tokens.dynamic_tiling import dynamic_tiling
from lvlm_atlas.roofline.tokens.fixed import fixed
from lvlm_atlas.roofline.tokens.idefics3_split import idefics3_split, split_grid
from lvlm_atlas.roofline.tokens.minicpm_slice import minicpm_slice
from lvlm_atlas.roofline.tokens.mllama_canvas import mllama_canvas
from lvlm_atlas.roofline.tokens.navit_pad import navit_pad
from lvlm_atlas.roofline.tokens.overlapping_crops import overlapping_crops
from lvlm_atlas.roofline.tokens.padded_crops import padded_crops
from lvlm_atlas.roofline.tokens.patch_budget import patch_budget
from lvlm_atlas.roofline.tokens.pixtral_grid import pixtral_grid
from lvlm_atlas.roofline.tokens.still_clip_resize import still_clip_resize
from lvlm_atlas.roofline.tokens.video_frames_as_tiles import video_frames_as_tiles

SMALL = [(336, 336), (200, 61), (97, 300), (500, 333), (31, 450), (640, 100)]
PINPOINTS = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]


def tiles_of(visual):
    return sum(each.sequences for each in visual.patches)


def test_anyres_unpad_counts_as_llava_next(published, sizes, pixels):
    module = "models.llava_next.image_processing_pil_llava_next"
    images = published(module, "LlavaNextImageProcessorPil")(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, image_grid_pinpoints=PINPOINTS
    )
    processor = object.__new__(published("models.llava_next.processing_llava_next", "LlavaNextProcessor"))
    processor.image_processor, processor.patch_size, processor.num_additional_image_tokens = images, 14, 1

    def see(width, height):
        return anyres_unpad([(width, height)], tile=336, patch=14, class_token=True, pinpoints_hw=PINPOINTS)

    for width, height in sizes:
        # Its strategy "default" drops the class token.
        expected = processor._get_number_of_features(height, width, 336, 336) - 1
        assert see(width, height).llm_token == expected, (width, height)
    for width, height in SMALL:
        assert tiles_of(see(width, height)) == len(images(pixels(width, height))["pixel_values"][0])


def test_anyres_max_counts_as_llava_onevision(published, sizes, pixels):
    canvases = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    module = "models.llava_onevision.image_processing_pil_llava_onevision"
    images = published(module, "LlavaOnevisionImageProcessorPil")(image_grid_pinpoints=canvases)
    make = published("models.llava_onevision.processing_llava_onevision", "LlavaOnevisionProcessor")
    processor = object.__new__(make)
    processor.image_processor, processor.num_image_tokens, processor.vision_aspect_ratio = images, 729, "anyres_max_9"
    constants = {"tile": 384, "patch": 14, "max_side": 6, "max_tiles": 9}
    for size in sizes:
        expected = processor._get_number_of_features(size[1], size[0], 384, 384)
        assert anyres_max([size], **constants).llm_token == expected, size
    for size in SMALL:
        assert tiles_of(anyres_max([size], **constants)) == len(images(pixels(*size))["pixel_values"][0])


def test_of_several_images_llava_onevision_keeps_the_whole_view_and_one_newline(published, pixels):
    module = "models.llava_onevision.image_processing_pil_llava_onevision"
    images = published(module, "LlavaOnevisionImageProcessorPil")()
    processor = object.__new__(
        published("models.llava_onevision.processing_llava_onevision", "LlavaOnevisionProcessor")
    )
    processor.num_image_tokens, processor.vision_feature_select_strategy, processor.image_token = 729, "full", "I"
    batch = images([[pixels(500, 400), pixels(100, 300)]])
    visual = anyres_max([(500, 400), (100, 300)], tile=384, patch=14, max_side=6, max_tiles=9)
    assert visual.llm_token == sum(len(processor.replace_image_token(batch, index)) for index in (0, 1))
    assert tiles_of(visual) == 2
    assert [int(count) for count in batch["batch_num_images"]] == [2]


def test_frames_of_llava_onevision_and_internvl_are_tiles_of_one_size(published):
    import numpy

    frames = {"pixel_values_videos": [numpy.zeros((32, 1))]}
    onevision = object.__new__(
        published("models.llava_onevision.processing_llava_onevision", "LlavaOnevisionProcessor")
    )
    onevision.num_image_tokens, onevision.video_token = 729, "V"
    pooled = {"token_per_frame": 196, "adapter_token_per_frame": 729, "newline_token": 1}
    visual = video_frames_as_tiles(640, 480, 32, tile=384, patch=14, class_token=False, **pooled)
    assert visual.llm_token == onevision.replace_video_token(frames, 0).count("V")
    internvl = object.__new__(published("models.internvl.processing_internvl", "InternVLProcessor"))
    internvl.image_seq_length = 256
    internvl.start_image_token, internvl.image_token, internvl.end_image_token = "<", "V", ">"
    visual = video_frames_as_tiles(640, 480, 32, tile=448, patch=14, class_token=True, token_per_frame=256)
    assert visual.llm_token == internvl.replace_video_token(frames, 0).count("V")


@pytest.mark.parametrize(("least", "most"), [(1, 12), (1, 6), (1, 40), (9, 12)])
def test_dynamic_tiling_counts_as_internvl(published, sizes, pixels, least, most):
    make = published("models.got_ocr2.image_processing_pil_got_ocr2", "GotOcr2ImageProcessorPil")
    square = {"height": 448, "width": 448}
    processor = make(size=square, crop_to_patches=True, min_patches=least, max_patches=most)
    constants = {"tile": 448, "patch": 14, "class_token": True, "min_tiles": least, "max_tiles": most}
    constants |= {"token_per_tile": 256, "thumbnail": True}
    for size in sizes:
        expected = processor.get_number_of_image_patches(size[1], size[0])
        assert tiles_of(dynamic_tiling([size], **constants)) == expected, size
    for size in SMALL if most == 6 else ():
        assert tiles_of(dynamic_tiling([size], **constants)) == int(processor(pixels(*size))["num_patches"][0])


def test_mllama_canvas_counts_as_mllama(published, sizes, pixels):
    module = "models.mllama.image_processing_pil_mllama"
    canvas = published(module, "get_optimal_tiled_canvas")
    for tile, most in ((560, 4), (448, 4), (560, 7)):
        for width, height in sizes:
            rows, columns = canvas(height, width, most, tile)
            visual = mllama_canvas([(width, height)], tile=tile, patch=14, max_tiles=most)
            expected = (rows // tile) * (columns // tile) * ((tile // 14) ** 2 + 1)
            assert visual.cross_token == visual.encoder_token == expected, (width, height)
    processor = published(module, "MllamaImageProcessorPil")(size={"height": 560, "width": 560})
    for size in SMALL:
        (count,) = processor(pixels(*size))["num_tiles"][0]
        assert mllama_canvas([size], tile=560, patch=14, max_tiles=4).cross_token == 1601 * count


def test_fixed_pans_and_scans_as_gemma_3(published, sizes):
    import numpy as np

    make = published("models.gemma3.image_processing_pil_gemma3", "Gemma3ImageProcessorPil")
    given = {"min_crop_size": 256, "max_num_crops": 4, "min_ratio_to_activate": 1.2}
    constants = {"tile": 896, "patch": 14, "class_token": False, "token_per_tile": 256, "pan_and_scan": True}
    for width, height in sizes:
        image = np.broadcast_to(np.uint8(0), (3, height, width))  # as large as it likes, in one byte
        crops = make().pan_and_scan(image, **{f"pan_and_scan_{name}": value for name, value in given.items()})
        assert tiles_of(fixed([(width, height)], **constants)) == 1 + len(crops), (width, height)


def test_fixed_makes_one_square_of_any_image_as_llava_1_5(published, pixels):
    make = published("models.clip.image_processing_pil_clip", "CLIPImageProcessorPil")
    processor = make(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    for size in SMALL:
        _, height, width = processor(pixels(*size))["pixel_values"][0].shape
        visual = fixed([size], tile=336, patch=14, class_token=True, token_per_tile=576)
        assert visual.llm_token == (height // 14) * (width // 14)


@pytest.mark.parametrize("tiles", [1, 2, 4, 5, 10])
def test_idefics3_split_counts_as_smolvlm(published, sizes, pixels, tiles):
    make = published("models.smolvlm.image_processing_pil_smolvlm", "SmolVLMImageProcessorPil")
    constants = {"tile": 384, "longest_edge": 384 * tiles}
    processor = make(size={"longest_edge": 384 * tiles}, max_image_size={"longest_edge": 384}, return_row_col_info=True)
    for width, height in sizes:
        _, rows, columns = processor.get_number_of_image_patches(height, width)
        assert split_grid(width, height, **constants) == (max(1, columns), max(1, rows)), (width, height)
    for size in SMALL if tiles <= 4 else ():
        count = processor(pixels(*size))["pixel_values"].shape[1]
        assert tiles_of(idefics3_split([size], **constants, patch=14, token_per_tile=81)) == count


@pytest.mark.parametrize(
    ("longest", "size", "grid", "counted"),
    [
        (1000, (300, 210), (3, 3), (2, 3)),  # rounding up the longer side makes the other a row more
        (4400, (300, 9), (11, 1), (1, 11)),  # no side exceeds 4096 pixels before tiles are cut
        (384, (64, 21), (1, 1), (0, 0)),  # nothing to cut is still one tile
    ],
)
def test_idefics3_split_cuts_pixels_as_smolvlm_even_where_its_helper_miscounts(
    published, pixels, longest, size, grid, counted
):
    make = published("models.smolvlm.image_processing_pil_smolvlm", "SmolVLMImageProcessorPil")
    processor = make(size={"longest_edge": longest}, max_image_size={"longest_edge": 384}, return_row_col_info=True)
    columns, rows = split_grid(*size, tile=384, longest_edge=longest)
    assert (columns, rows) == grid
    found = processor(pixels(*size))
    assert (found["cols"], found["rows"]) == (([[columns]], [[rows]]) if grid != (1, 1) else ([[0]], [[0]]))
    assert found["pixel_values"].shape[1] == columns * rows + (grid != (1, 1))
    assert processor.get_number_of_image_patches(*size[::-1])[1:] == counted


@pytest.mark.parametrize("most", [1, 2, 9, 16])
def test_minicpm_slice_counts_as_its_successor_with_patches_of_7_merged_to_14(published, sizes, pixels, most):
    make = published("models.minicpmv4_6.image_processing_pil_minicpmv4_6", "MiniCPMV4_6ImageProcessorPil")
    processor = make(patch_size=7, downsample_mode="4x", max_slice_nums=most)
    for width, height in sizes:
        grid = processor.get_sliced_grid((height, width), most, 448)
        rounded = {"scale_resolution": 448, "patch_size": 7, "downsample_mode": "4x"}
        rows, columns = processor.find_best_resize((height, width), **rounded, allow_upscale=grid is None)
        patches, count = (rows // 14) * (columns // 14), 1
        if grid is not None:
            rows, columns = processor.get_refine_size((height, width), grid, **rounded, allow_upscale=True)
            patches, count = patches + (rows // 14) * (columns // 14), 1 + grid[0] * grid[1]
        visual = minicpm_slice([(width, height)], scale=448, patch=14, max_slices=most, queries=64)
        assert (visual.encoder_token, visual.llm_token) == (patches, 64 * count), (width, height)


def test_select_canvas_chooses_as_transformers_among_the_canvases_of_deepseek_vl2(published, sizes):
    choose = published("image_processing_utils", "select_best_resolution")
    canvases = [(384 * rows, 384 * columns) for rows in range(1, 10) for columns in range(1, 9 // rows + 1)]
    for width, height in sizes:
        assert select_canvas(width, height, canvases) == choose((height, width), canvases), (width, height)


def test_glm_resizes_an_image_as_a_clip(published, sizes):
    resize = published("models.glm4v.image_processing_pil_glm4v", "smart_resize")
    limits = {"min_pixels": 12_544, "max_pixels": 9_633_792}
    taken = [size for size in sizes if max(size) <= 100 * min(size)]
    assert len(taken) > 300
    for width, height in taken:
        rows, columns = (side // 28 for side in resize(2, height, width, factor=28, **limits))
        visual = still_clip_resize([(width, height)], patch=14, merge=2, temporal=2, **limits)
        assert visual.llm_token == rows * columns, (width, height)


def test_pixtral_ends_each_row_with_a_break(published, sizes):
    numpy = pytest.importorskip("numpy")
    resize = published("models.pixtral.image_processing_pil_pixtral", "get_resize_output_image_size")
    for width, height in sizes:
        if max(width, height) > 1000 * min(width, height):
            continue  # a side vanishes there
        pixels = numpy.broadcast_to(numpy.uint8(0), (height, width, 3))
        tall, wide = resize(pixels, size=(1540, 1540), patch_size=(28, 28), input_data_format="channels_last")
        expected = tall // 28 * (wide // 28 + 1)
        assert pixtral_grid([(width, height)], patch=14, merge=2, longest_edge=1540).llm_token == expected


def test_kimi_pads_to_whole_tokens(published_alone, sizes):
    resize = published_alone("models.kimi_k25.image_processing_kimi_k25", "navit_resize")
    for width, height in sizes:
        _, (tall, wide) = resize(height, width, 14, 2, 4096, 512)
        assert navit_pad([(width, height)], patch=14, merge=2, max_patches=4096).llm_token == tall * wide // 28**2


def test_gemma_4_fills_its_budget_of_tokens(published, sizes):
    module = "models.gemma4.image_processing_pil_gemma4"
    resize = published(module, "get_aspect_ratio_preserving_size")
    for width, height in sizes:
        tall, wide = resize(height, width, 16, 280 * 9, 3)
        assert patch_budget([(width, height)], patch=16, merge=3, max_tokens=280).llm_token == tall * wide // 48**2


def test_llama_4_pads_to_the_canvas_that_enlarges_least(published_alone, sizes):
    torch = pytest.importorskip("torch")
    module = "models.llama4.image_processing_llama4"
    fit = published_alone(module, "get_best_fit")
    supported = published_alone(module, "find_supported_resolutions", "get_factors")
    canvases = torch.tensor(supported(16, SimpleNamespace(height=336, width=336)))
    constants = {"tile": 336, "patch": 14, "class_token": True, "max_tiles": 16, "token_per_tile": 144}
    for width, height in sizes:
        tall, wide = (int(side) // 336 for side in fit((height, width), canvases))
        visual = canvas_tiles([(width, height)], **constants)
        assert tiles_of(visual) == tall * wide + (tall * wide > 1), (width, height)


def test_molmo2_cuts_crops_that_overlap(published_alone, sizes):
    geometry = published_alone("models.molmo2.image_processing_molmo2", "compute_crop_geometry", "select_tiling")
    for width, height in sizes:
        rows, columns, tall, wide = geometry(height, width, 8, [4, 4], 378, 14)
        visual = overlapping_crops([(width, height)], tile=378, patch=14, pool=2, margin=4, max_crops=8)
        assert tiles_of(visual) == 1 + rows * columns, (width, height)
        high = math.ceil(tall / 28), math.ceil(wide / 28)
        assert visual.adapter_token == 14 * 14 + high[0] * high[1]
        assert visual.llm_token == 14 * 15 + high[0] * (high[1] + 1)


def test_phi_4_leaves_out_tokens_that_show_padding_alone(sizes):
    """The mask of the released processor, whose method needs torchvision to resize, made anew patch by patch."""
    tile, side, half = 448, 32, 16
    for width, height in sizes:
        columns, rows = math.ceil(width / tile), math.ceil(height / tile)
        if columns * rows > 36:
            continue
        across, down = columns * tile / width, rows * tile / height
        spare_x = 0 if across < down else columns * tile - int(width * down)
        spare_y = rows * tile - int(height * across) if across < down else 0
        if min(columns * tile - spare_x, rows * tile - spare_y) < 10:
            continue
        shown_x = [column < columns * side - spare_x // 14 for column in range(columns * side)]
        shown_y = [row < rows * side - spare_y // 14 for row in range(rows * side)]
        seen_x, seen_y = sum(shown_x[::2]), sum(shown_y[::2])
        visual = padded_crops([(width, height)], tile=tile, patch=14, max_crops=36)
        assert visual.llm_token == half**2 + 1 + seen_x * seen_y + seen_y + half, (width, height)
        assert tiles_of(visual) == 1 + columns * rows


def test_ovis2_takes_as_few_tiles_as_show_nine_tenths(published_alone, sizes):
    names = ("split_image_into_grid", "compute_patch_covering_area", "get_all_supported_aspect_ratios")
    grid_of = published_alone("models.ovis2.image_processing_ovis2", "get_min_tile_covering_grid", *names)
    constants = {"tile": 448, "patch": 14, "max_tiles": 9, "token_per_tile": 256}
    for width, height in sizes:
        rows, columns = grid_of((height, width), 448, 9)
        count = rows * columns + (rows * columns > 1)
        visual = covering_tiles([(width, height)], **constants)
        assert tiles_of(visual) == count, (width, height)
        marks = 3 + rows * (columns - 1) + rows - 1
        assert visual.llm_token == 256 * count + marks
