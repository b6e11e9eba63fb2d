"""Requests as people write them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.workload import Image, Video, Workload
from lvlm_atlas.specs.request import FIELDS, image, limits, replaced, request, video

BASE = Workload(id="base", images=(Image(640, 480, 2),))


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_size_reads_as_it_is_written(width: int, height: int) -> None:
    assert image(f"{width}x{height}") == Image(width, height)
    assert image(f" {width} × {height} ") == Image(width, height)


@pytest.mark.parametrize(
    ("text", "duration_s", "fps"),
    [("60s@2", 60, 2), ("1.5min", 90, 2), ("2m@0.5", 120, 0.5), ("1h@1", 3600, 1), ("5s@60", 5, 60)],
)
def test_a_video_reads_as_it_is_written(text: str, duration_s: float, fps: float) -> None:
    found = video(f"1280x720:{text}")
    assert found == Video(1280, 720, duration_s, fps, max(30.0, fps))


@given(st.text(max_size=30))
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    for read in (image, video):
        with pytest.raises(AtlasError) as refused:
            read(f"{text}!")
        assert "\n" not in str(refused.value)


def test_nothing_given_changes_nothing() -> None:
    assert request(BASE) is BASE


def test_what_is_given_replaces_and_the_id_tells() -> None:
    found = request(BASE, images=["8x8"], count=3, text=5, batch=2)
    assert found == Workload(
        id="base:image=8x8,images=3,text=5,batch=2", images=(Image(8, 8, 3),), text_tokens=5, batch=2
    )
    assert request(BASE, count=7).images == (Image(640, 480, 7),)
    both = request(BASE, images=["8x8"], videos=["8x8:1s"])
    assert (len(both.images), len(both.videos)) == (1, 1)
    assert request(BASE, videos=["8x8:1s"]).images == ()


@pytest.mark.parametrize("name", list(FIELDS))
def test_numbers_out_of_range_are_refused(name: str) -> None:
    parameter = {"images": "count"}.get(name, name)
    both = replace(BASE, videos=(Video(8, 8, 1),))
    least, most = limits(name)
    for number in (least - 1, most + 1, 1.5, float("nan")):
        with pytest.raises(AtlasError, match=f"^{name} is"):
            request(both, **{parameter: number})
    request(both, **{parameter: least})
    request(both, **{parameter: most})


def test_a_count_needs_images_of_one_size() -> None:
    with pytest.raises(AtlasError, match="none to count"):
        request(Workload(videos=(Video(8, 8, 1),)), count=2)
    with pytest.raises(AtlasError, match="none to count"):
        request(BASE, videos=["8x8:1s"], count=2)
    with pytest.raises(AtlasError, match="several sizes"):
        request(Workload(images=(Image(8, 8), Image(9, 9))), count=2)


def test_frames_are_those_of_every_video_and_need_one() -> None:
    two = request(BASE, videos=["8x8:1s", "9x9:2s"], frames=6)
    assert [video.frames for video in two.videos] == [6, 6]
    assert two.id == "base:video=8x8:1s,video=9x9:2s,frames=6"
    with pytest.raises(AtlasError, match="there is no video"):
        request(BASE, frames=6)


def test_no_images_make_a_request_of_text_alone() -> None:
    alone = request(BASE, count=0)
    assert (alone.images, alone.videos, alone.id) == ((), (), "base:images=0")
    assert request(BASE, images=["8x8"], count=0).images == ()
    assert request(BASE, videos=["8x8:1s"], count=0).videos


def test_limits_of_pixels_sizes_and_rules_need_what_they_are_about() -> None:
    found = request(BASE, max_pixels=9, vision_tokens=5)
    assert (found.max_pixels, found.vision_tokens, found.id) == (9, 5, "base:max_pixels=9,vision_tokens=5")
    with pytest.raises(AtlasError, match=r"^max_pixels is 9, but there is no image or video"):
        request(BASE, count=0, max_pixels=9)
    with pytest.raises(AtlasError, match=r"^vision_tokens is 9, but there is no image"):
        request(BASE, videos=["8x8:1s"], vision_tokens=9)
    with pytest.raises(AtlasError, match=r"^video_by is 'servers', but there is no video"):
        request(BASE, video_by="servers")
    parts = replaced("video=8x8:1s,video_by=servers,max_pixels=9")
    assert parts == {"video": ("8x8:1s",), "video_by": "servers", "max_pixels": 9}
