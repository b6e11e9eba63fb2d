"""Qwen2.5-VL's rule from pixels to tokens equals the published processors'."""

from __future__ import annotations

import ast
import math
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lvlm_atlas.reference.lvlm.resolution import (
    image_tokens,
    sampled_frames,
    smart_resize,
    video_frame_size,
    video_tokens,
)

SIDES = (1, 13, 14, 28, 41, 42, 43, 56, 70, 98, 224, 336, 720, 1080, 1279, 2160, 4096, 7680)
SIZES = [(h, w) for h, w in product(SIDES, SIDES) if max(h, w) <= 200 * min(h, w)]
VIDEOS = [(h, w, f) for h, w in ((360, 640), (720, 1280), (1080, 1920), (41, 300)) for f in (2, 4, 10, 120, 300, 768)]
LENGTHS = [(total, fps) for total in (2, 3, 4, 5, 30, 301, 9000, 90_000) for fps in (1.0, 7.5, 29.97, 60.0)]


def test_images_take_the_tokens_that_the_published_processor_gives_them(transformers: Any) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    as_published = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=12_845_056)
    by_class = Qwen2VLImageProcessorPil()
    for size in SIZES:
        assert image_tokens(*size) * 4 == as_published.get_number_of_image_patches(*size)
        assert image_tokens(*size, tokens=(4, 1280)) * 4 == by_class.get_number_of_image_patches(*size)


class Pixels:
    """Stands in for the processor's pixel work, and notes the size that its rule asks for."""

    max_video_tokens, num_frames, fps = 128_000, None, None
    temporal_patch_size, min_frames, max_frames = 2, 4, 768

    def resize(self, image: Any, size: Any, resample: Any) -> tuple[int, int]:
        return size.height, size.width


@pytest.fixture(scope="module")
def published(transformers: Any) -> Any:
    """The published video processor's rules, run as they stand.

    Its module imports torchvision for pixel work that no rule needs, so that the two methods are taken out of it.
    """
    import transformers.models.qwen2_vl as package

    source = Path(package.__path__[0], "video_processing_qwen2_vl.py").read_text("utf-8")
    tree = ast.parse(source)
    rules = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "smart_resize"]
    (processor,) = (node for node in tree.body if getattr(node, "name", "") == "Qwen2VLVideoProcessor")
    methods = [node for node in processor.body if getattr(node, "name", "") in ("resize", "sample_frames")]
    assert (len(rules), len(methods)) == (1, 2)
    processor.body, processor.bases, processor.decorator_list = methods, [ast.Name("Pixels", ast.Load())], []
    tree.body = [*rules, processor]
    names: dict[str, Any] = {"math": math, "torch": torch, "SizeDict": SimpleNamespace, "Pixels": Pixels}
    code = compile(ast.fix_missing_locations(tree), "published", "exec", flags=annotations.compiler_flag)
    exec(code, names)  # noqa: S102 - an installed library's own code
    return names["Qwen2VLVideoProcessor"]()


def test_frames_of_a_video_take_the_size_that_the_published_processor_gives_them(published: Any) -> None:
    least_and_most = SimpleNamespace(shortest_edge=128 * 28 * 28, longest_edge=768 * 28 * 28)
    for height, width, frames in VIDEOS:
        video = SimpleNamespace(shape=(1, frames, 3, height, width))
        asked = published.resize(video, least_and_most, None, 28, cap_pixels_per_frame=True)
        assert video_frame_size(height, width, frames) == asked


def test_as_many_frames_are_read_as_the_published_processor_reads(published: Any) -> None:
    for total, fps in LENGTHS:
        metadata = SimpleNamespace(total_num_frames=total, fps=fps)
        assert sampled_frames(total, fps) == len(published.sample_frames(metadata, fps=2))


def test_a_single_frame_is_no_video_and_a_line_is_no_picture() -> None:
    with pytest.raises(ValueError, match="two frames at least, got 1"):
        sampled_frames(1, 30.0)
    for size in ((1, 201), (0, 5)):
        with pytest.raises(ValueError, match="differ by a factor of 200 at most"):
            smart_resize(*size)


def test_pinned_examples() -> None:
    """As the published processors give them; see also the survey's notes."""
    assert smart_resize(1080, 1920) == (1092, 1932)
    assert image_tokens(1080, 1920) == 2691
    assert image_tokens(1080, 1920, tokens=(4, 1280)) == 1222
    assert image_tokens(720, 1280) == 1196
    assert video_frame_size(720, 1280, 10) == (560, 1008)
    assert (video_tokens(720, 1280, 10), video_tokens(720, 1280, 120)) == (3600, 43_200)
