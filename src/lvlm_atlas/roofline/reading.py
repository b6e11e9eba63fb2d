"""How a request wants its images and videos read: its own limits of pixels, another rule, a number of vision tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.roofline.model import Llm, Model, TokenRule
from lvlm_atlas.roofline.tokens import rule
from lvlm_atlas.roofline.tokens.sizes import MOST_PIXELS, Size
from lvlm_atlas.roofline.tokens.smart_resize import MOST_ASPECT
from lvlm_atlas.roofline.vision import visual
from lvlm_atlas.roofline.workload import Image, Workload

STEP_PIXEL = 14
"""Distance of the longer sides that are tried where a model takes images of any size: the least patch in use."""
MOST_SIDE = 16_384
"""Longest side that is tried."""
NEAR = 0.1
"""How far the tokens of an image may be from those asked for, as a share."""
_ALIKE = 4
"""Images of a request that are tried together: rules tell one from several, and no more."""


def read_as(model: Model, workload: Workload) -> tuple[Model, Workload]:
    """The model with its token rules as a request wants them, and the request with its images sized.

    What comes out asks for nothing further, so it may go in again.

    Raises:
        AtlasError: the model's rules know no such limits, its record has no such rule of videos, or no image of such
            a shape becomes about so many tokens.
    """
    model = replace(model, tokens=_limited(model, _chosen(model, workload), workload))
    if model.llm.cross_layers and not (workload.images or workload.videos):
        model = replace(model, llm=_without_cross_layers(model.llm))
    if workload.vision_tokens is None:
        return model, workload
    total = sum(each.count for each in workload.images)
    sized = tuple(_sized(model, each, workload.vision_tokens, total) for each in workload.images)
    return model, replace(workload, images=sized, vision_tokens=None, sized_for=workload.vision_tokens)


def video_tokens(model: Model, workload: Workload) -> dict[str, int]:
    """Vision tokens of the request's videos by the rules that it could choose and did not, by their names."""
    if not workload.videos or workload.video_by:
        return {}
    alone = replace(workload, images=(), vision_tokens=None)
    ways = {name: read_as(model, replace(alone, video_by=name)) for name in model.tokens.video_by}
    return {name: visual(*way).llm_token for name, way in ways.items()}


def image_tokens(model: Model, image: Image, total: int = 1) -> int:
    """Vision tokens of one image, among so many of its size."""
    count = min(total, _ALIKE)
    made = rule(model.tokens.image)([(image.width, image.height)] * count, **model.tokens.image_params)
    return round((made.cross_token or made.llm_token) / count)


def _chosen(model: Model, workload: Workload) -> TokenRule:
    """The model's rules, the one of videos that the request asks for."""
    name, tokens = workload.video_by, model.tokens
    if name is None or not workload.videos:
        return tokens
    if name not in tokens.video_by:
        known = f"{suggestion(name, tokens.video_by)} or leave it out" if tokens.video_by else "leave it out"
        raise AtlasError(f"video_by is {name!r}, but {model.name} has no such rule of videos; {known}")
    video, params = tokens.video_by[name]
    return replace(tokens, video=video, video_params=params)


def _limited(model: Model, tokens: TokenRule, workload: Workload) -> TokenRule:
    """The rules with the request's limits of pixels in place of their own."""
    asked = {key: getattr(workload, key) for key in ("min_pixels", "max_pixels")}
    limits = {key: value for key, value in asked.items() if value is not None}
    if not limits:
        return tokens
    if len(limits) == 2 and limits["min_pixels"] > limits["max_pixels"]:
        raise AtlasError(
            f"min_pixels is {limits['min_pixels']:,} and max_pixels {limits['max_pixels']:,}; "
            "the least must not exceed the most"
        )
    changed: dict[str, Any] = {}
    for kind, there in (("image", workload.images), ("video", workload.videos)):
        params: Mapping[str, Any] = getattr(tokens, f"{kind}_params")
        if not there:
            continue
        if missing := [key for key in limits if key not in params]:
            raise AtlasError(
                f"{missing[0]} is {limits[missing[0]]:,}, but {model.name} knows no limit of pixels: its rule for "
                f"{kind}s is {getattr(tokens, kind)}; leave it out"
            )
        changed[f"{kind}_params"] = {**params, **limits}
    return replace(tokens, **changed)


def _without_cross_layers(llm: Llm) -> Llm:
    """The language model as it reads text alone: layers that attend to vision tokens are skipped, not removed."""
    kept = [layer for layer in range(llm.layers) if layer not in llm.cross_layers]
    local = frozenset(index for index, layer in enumerate(kept) if layer in llm.local_layers)
    skipped = len(llm.cross_layers)
    return replace(llm, layers=len(kept), local_layers=local, cross_layers=frozenset(), skipped_layers=skipped)


def _sized(model: Model, image: Image, tokens: int, total: int) -> Image:
    """An image of the same shape that becomes about so many tokens: the smallest of the nearest.

    Raises:
        AtlasError: none does.
    """
    tried = {
        size: image_tokens(model, replace(image, width=size[0], height=size[1]), total) for size in _sizes(model, image)
    }
    (width, height), made = min(tried.items(), key=lambda each: (abs(each[1] - tokens), each[0]))
    if abs(made - tokens) > NEAR * tokens:
        raise AtlasError(
            f"vision_tokens is {tokens:,}, but {model.name} makes that of no image of the shape {image.width}x"
            f"{image.height}: the nearest is {made:,}, of {width}x{height}; give a size in its place"
        )
    return replace(image, width=width, height=height)


def _sizes(model: Model, image: Image) -> Iterator[Size]:
    """Sizes of an image's shape: whole tokens where a model takes any size, else whole pixels, each once."""
    params = model.tokens.image_params
    factor = params["patch"] * params["merge"] if "max_pixels" in params and "merge" in params else 1
    longer = max(image.width, image.height)
    aspect = longer / min(image.width, image.height)
    before = None
    for side in range(max(STEP_PIXEL, factor), MOST_SIDE + 1, max(STEP_PIXEL, factor // 2)):
        width, height = (max(1, round(each * side / longer / factor)) * factor for each in (image.width, image.height))
        flat = max(width, height) > MOST_ASPECT * min(width, height) and aspect <= MOST_ASPECT
        if (width, height) != before and width * height <= MOST_PIXELS and not flat:
            yield width, height
        before = width, height
