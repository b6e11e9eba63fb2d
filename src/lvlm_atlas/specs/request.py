"""Requests as people write them: `1280x720`, `1280x720:60s@2`, and a workload of the catalog with parts replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.limits import REQUEST
from lvlm_atlas.roofline.workload import Image, Video, Workload

_SIZE = r"(\d{1,9})\s*[x×]\s*(\d{1,9})"
_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_IMAGE = re.compile(_SIZE, re.ASCII)
_VIDEO = re.compile(rf"{_SIZE}\s*:\s*{_NUMBER}\s*(s|min|m|h)(?:@{_NUMBER})?", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}

FIELDS = {
    "images": "count", "frames": "frames", "text": "text_tokens", "output": "output_tokens", "batch": "batch",
    "turns": "turns", "min_pixels": "min_pixels", "max_pixels": "max_pixels", "vision_tokens": "vision_tokens",
}  # fmt: skip
"""Numbers of a request as people call them, and the fields that hold them."""


def limits(name: str) -> tuple[int, int]:
    """Least and most of a number, by its name; no images make a request of text alone."""
    least, most = REQUEST[FIELDS[name]]
    return (0, most) if name == "images" else (least, most)


def image(text: str, count: int = 1) -> Image:
    """Images of one size, from `WIDTHxHEIGHT`.

    Raises:
        AtlasError: that is no size.
    """
    match = _IMAGE.fullmatch(text.strip())
    if not match or not int(match[1]) or not int(match[2]):
        raise AtlasError(f"image {text!r} is no size; write WIDTHxHEIGHT in pixels, such as 1280x720")
    return Image(int(match[1]), int(match[2]), count)


def video(text: str) -> Video:
    """A video, from `WIDTHxHEIGHT:DURATION@FPS`; the rate at which it is looked at may be left out.

    Raises:
        AtlasError: that is no video.
    """
    match = _VIDEO.fullmatch(text.strip())
    if not match or not int(match[1]) or not int(match[2]):
        raise AtlasError(f"video {text!r} is none; write WIDTHxHEIGHT:DURATION@FPS, such as 1280x720:60s@2")
    duration_s = float(match[3]) * _SECONDS[match[4]]
    fps = float(match[5] or 2)
    if not (duration_s > 0 and fps > 0):
        raise AtlasError(f"video {text!r} lasts no time or is never looked at; give a duration and a rate above 0")
    return Video(int(match[1]), int(match[2]), duration_s, fps, max(30.0, fps))


def request(
    base: Workload,
    *,
    images: Sequence[str] = (),
    count: int | None = None,
    videos: Sequence[str] = (),
    text: int | None = None,
    output: int | None = None,
    batch: int | None = None,
    turns: int | None = None,
    frames: int | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    vision_tokens: int | None = None,
    video_by: str | None = None,
) -> Workload:
    """A workload with parts of it replaced; a visual input replaces all visual input of the workload.

    Its id tells what was replaced, such as `images-20:batch=8`.

    Args:
        base: the workload to start from.
        images: sizes, as `image` reads them.
        count: how many images of each size; of the workload's own images, if no sizes are given. 0: none, so that a
            request without `videos` is one of text alone.
        videos: videos, as `video` reads them; images and videos together make one request of both.
        text: text tokens of the prompt.
        output: tokens generated.
        batch: requests processed together.
        turns: questions about the same visual input.
        frames: frames read of each video, whatever its rate and the model's own limits.
        min_pixels: least pixels of an image or a frame, as the model's processor takes it.
        max_pixels: most pixels, alike.
        vision_tokens: vision tokens that each image is to become; it keeps its shape.
        video_by: whose rule reads videos, of those in the model's record, such as `servers`.

    Raises:
        AtlasError: a size or video is none, there is nothing that a number or a rule is about, or a number is out of
            range.
    """
    numbers = {
        "images": count, "text": text, "output": output, "batch": batch, "turns": turns, "frames": frames,
        "min_pixels": min_pixels, "max_pixels": max_pixels, "vision_tokens": vision_tokens,
    }  # fmt: skip
    given = {name: number for name, number in numbers.items() if number is not None}
    for name, number in given.items():
        least, most = limits(name)
        if not isinstance(number, int) or not least <= number <= most:
            raise AtlasError(f"{name} is {number!r}; give a whole number from {least:,} to {most:,}")
    changed: dict[str, Any] = {}
    if images or videos or count == 0:
        changed["images"] = tuple(image(each, count or 1) for each in images if count != 0)
        changed["videos"] = tuple(video(each) for each in videos)
    if count and not images:
        if videos or not base.images:
            raise AtlasError(f"images is {count}, but there is none to count; give its size too, such as 1280x720")
        if len(base.images) > 1:
            raise AtlasError(f"images is {count}, but {base.id} has images of several sizes; give a size too")
        changed["images"] = (replace(base.images[0], count=count),)
    if frames is not None:
        if not (changed.get("videos") or base.videos):
            raise AtlasError(f"frames is {frames}, but there is no video; give one, such as --video 1280x720:60s")
        changed["videos"] = tuple(replace(each, frames=frames) for each in changed.get("videos", base.videos))
    changed |= {FIELDS[name]: given[name] for name in given.keys() - {"images", "frames"}}
    if video_by is not None:
        changed["video_by"] = video_by
    if not changed:
        return base
    words = [*(f"image={each}" for each in images), *(f"video={each}" for each in videos)]
    words += [f"{name}={number}" for name, number in given.items()]
    words += [f"video_by={video_by}"] if video_by else []
    made = replace(base, **changed, id=f"{base.id}:{','.join(words)}")
    _require_subject(made, given, video_by)
    return made


def _require_subject(made: Workload, given: Mapping[str, int], video_by: str | None) -> None:
    """Refuse what is about images or videos that a request has not."""
    if "vision_tokens" in given and not made.images:
        raise AtlasError(f"vision_tokens is {given['vision_tokens']}, but there is no image to size; give its shape")
    limited = [name for name in ("min_pixels", "max_pixels") if name in given]
    if limited and not (made.images or made.videos):
        raise AtlasError(f"{limited[0]} is {given[limited[0]]}, but there is no image or video; give one")
    if video_by is not None and not made.videos:
        raise AtlasError(f"video_by is {video_by!r}, but there is no video; give one, such as --video 1280x720:60s")


def replaced(text: str) -> dict[str, Any]:
    """What an id such as `images-20:image=640x480,images=5` replaces of a workload, as `Planner.request` takes it.

    Raises:
        AtlasError: a part is no `name=value`, or there is none of that name.
    """
    parts: dict[str, Any] = {}
    for pair in text.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        known = ["image", "video", "video_by", *FIELDS]
        if not equals or name not in known:
            raise AtlasError(f"workload part {pair!r}: {suggestion(name, known)}; write name=value")
        if name in ("image", "video"):
            parts[name] = (*parts.get(name, ()), value)
        elif name == "video_by":
            parts[name] = value
        elif not value.isdecimal():
            raise AtlasError(f"workload part {pair!r}: {value!r} is no whole number")
        else:
            parts[name] = int(value)
    return parts
