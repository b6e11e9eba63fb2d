"""Requests that say themselves how their images and videos are read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.atlas.shelves import shelves
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.reading import image_tokens, read_as, video_tokens
from lvlm_atlas.roofline.vision import visual
from lvlm_atlas.roofline.workload import Image, Video, Workload
from lvlm_atlas.specs.records import model_spec

MODELS = shelves().models


def model(id_: str) -> Model:
    return model_spec(MODELS[id_])


def tokens(id_: str, workload: Workload) -> int:
    return visual(*read_as(model(id_), workload)).llm_token


def test_a_limit_of_pixels_takes_the_place_of_the_model_s() -> None:
    image = (Image(1920, 1080),)
    assert tokens("qwen2.5-vl-7b", Workload(images=image)) == 2691
    assert tokens("qwen2.5-vl-7b", Workload(images=image, max_pixels=1_003_520)) == 1222
    assert tokens("qwen2.5-vl-7b", Workload(images=(Image(280, 280),), min_pixels=4 * 280**2)) == 400


def test_a_limit_of_pixels_holds_for_frames_where_the_rule_has_one_of_frames() -> None:
    video = (Video(1280, 720, 5, 2, 30),)
    least = tokens("qwen2.5-vl-7b", Workload(videos=video, max_pixels=200_000))
    assert least < tokens("qwen2.5-vl-7b", Workload(videos=video))
    assert least == 5 * 21 * 11  # 5 pairs of 588 x 308


def test_models_that_cut_tiles_refuse_limits_of_pixels() -> None:
    with pytest.raises(AtlasError, match=r"LLaVA-1.5-7B knows no limit of pixels"):
        read_as(model("llava-1.5-7b"), Workload(images=(Image(8, 8),), max_pixels=9))
    with pytest.raises(AtlasError, match="the least must not exceed the most"):
        read_as(model("qwen2-vl-7b"), Workload(images=(Image(8, 8),), min_pixels=10, max_pixels=9))


@pytest.mark.parametrize(("seconds", "card", "servers"), [(5, 3600, 4400), (20, 14_400, 11_880)])
def test_the_servers_rule_of_videos_stands_beside_that_of_the_authors(seconds: int, card: int, servers: int) -> None:
    clip = Workload(videos=(Video(1280, 720, seconds, 2, 30),))
    chosen = Workload(videos=clip.videos, video_by="servers")
    assert (tokens("qwen3-vl-8b", clip), tokens("qwen3-vl-8b", chosen)) == (card, servers)
    assert video_tokens(model("qwen3-vl-8b"), clip) == {"servers": servers}
    assert video_tokens(*read_as(model("qwen3-vl-8b"), chosen)) == {}
    with pytest.raises(AtlasError, match="has no such rule of videos"):
        read_as(model("llava-onevision-7b"), chosen)


@settings(max_examples=20)
@given(wanted=st.integers(300, 16_000), shape=st.sampled_from([(1280, 720), (480, 640), (1000, 1000), (3000, 300)]))
def test_an_image_is_sized_for_a_number_of_tokens_in_its_shape(wanted: int, shape: tuple[int, int]) -> None:
    qwen = model("qwen2.5-vl-7b")
    asked, sized = read_as(qwen, Workload(images=(Image(*shape),), vision_tokens=wanted))
    (image,) = sized.images
    made = visual(asked, sized).llm_token
    assert abs(made - wanted) <= 0.1 * wanted
    assert made * 28**2 == image.width * image.height  # whole tokens, so that nothing resizes it further
    assert image.width / image.height == pytest.approx(shape[0] / shape[1], rel=0.5)
    assert read_as(asked, sized) == (asked, sized)


@pytest.mark.parametrize("id_", sorted(MODELS))
def test_every_model_is_sized_for_as_many_tokens_as_it_makes_of_some_image(id_: str) -> None:
    spec, image = model(id_), Image(1280, 720)
    wanted = image_tokens(spec, image)
    _, sized = read_as(spec, Workload(images=(image,), vision_tokens=wanted))
    assert image_tokens(spec, sized.images[0]) == wanted


def test_a_number_that_no_image_becomes_is_refused_with_the_nearest() -> None:
    with pytest.raises(AtlasError, match="the nearest is 576"):
        read_as(model("llava-1.5-7b"), Workload(images=(Image(8, 8),), vision_tokens=1000))


def test_without_an_image_layers_of_cross_attention_are_skipped() -> None:
    llama = model("llama-3.2-11b-vision")
    alone, _ = read_as(llama, Workload())
    assert (alone.llm.layers, alone.llm.cross_layers, alone.llm.skipped_layers) == (32, frozenset(), 8)
    assert alone.parameters == llama.parameters
    assert read_as(llama, Workload(images=(Image(8, 8),)))[0] == llama
