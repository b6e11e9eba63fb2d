"""LLaVA as its authors publish it: a language model's configuration that names its encoder and its projector."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from itertools import pairwise, product
from typing import Any

from lvlm_atlas.drafts.model.encoders import encoder, needed, side
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source
from lvlm_atlas.fault import AtlasError, suggestion

_CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "patch_size": 14,
}  # fmt: skip
TOWERS: Mapping[str, Mapping[str, Any]] = {
    "openai/clip-vit-large-patch14-336": {**_CLIP, "image_size": 336},
    "openai/clip-vit-large-patch14": {**_CLIP, "image_size": 224},
    "google/siglip-so400m-patch14-384": {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26,
        "num_attention_heads": 16, "patch_size": 14, "image_size": 384,
    },
}  # fmt: skip
"""Encoders that the family names and does not describe, as their own configurations do; activations are defaults. The
family's code drops SigLIP's last layer, of 27, and takes what is then the last."""
KINDS = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2"}
"""Kinds of language models by `model_type`."""


def is_one(config: Source) -> bool:
    """Whether a configuration has this form."""
    return "mm_vision_tower" in config


def parts(config: Source) -> Parts:
    """What it says.

    Raises:
        AtlasError: it names an encoder or projector that is not known, or tiles in no known way.
    """
    vision, vision_parameters = encoder(_tower(config))
    if vision["cls_token"]:
        needed(vision, config.data.get("mm_vision_select_layer", -2), config.file)
    text, text_parameters = llm(config, config, KINDS.get(config.text("model_type") or "", "llama"))
    widths = _widths(config, vision["hidden"], text["hidden"])
    newline, image, formula = _tokens(config, vision)
    return Parts(
        vision=vision, vision_parameters=vision_parameters,
        adapter={
            "type": config.text("mm_projector_type") or "linear", "widths": widths, "merge": 1,
            "steps": ", GELU, ".join(["Linear"] * (len(widths) - 1)) + " on each patch",
        },
        adapter_parameters=sum((into + 1) * out for into, out in pairwise(widths))
        + newline * text["hidden"],
        llm=text, llm_parameters=text_parameters, where="the image placeholder is replaced by the tokens", image=image,
        formula=formula, code="haotian-liu/LLaVA, LLaVA-VL/LLaVA-NeXT",
        notes=(
            f"vision: shapes are those of {config.text('mm_vision_tower')}, which the file names",
            "tokens.video: no rule for it is in the file, so none is written",
        ),
    )  # fmt: skip


def _tower(config: Source) -> Source:
    """The configuration of the encoder that is named."""
    name = config.text("mm_vision_tower") or ""
    known = next((each for each in TOWERS if each.rpartition("/")[2] == name.rstrip("/").rpartition("/")[2]), None)
    if known is None:
        raise AtlasError(f"{config.file}: mm_vision_tower is {name!r}, which is not known; {suggestion(name, TOWERS)}")
    return Source({**TOWERS[known], "_name_or_path": name}, "mm_vision_tower.", config.file, config.said)


def _widths(config: Source, into: int, out: Any) -> list[Any]:
    """Widths of the projector's chain of linear layers."""
    kind = config.text("mm_projector_type") or "linear"
    match = re.fullmatch(r"mlp(\d{1,2})x_gelu", kind)
    if kind != "linear" and not (match and int(match[1])):
        raise AtlasError(f"{config.file}: mm_projector_type is {kind!r}; only linear and mlp2x_gelu can be drafted")
    return [into, *[out] * (int(match[1]) if match else 1)]


def _tokens(config: Source, vision: dict[str, Any]) -> tuple[int, tuple[str, dict[str, Any]], str]:
    """Newline vectors, the rule for images with its arguments, and the rule for readers."""
    tile = {"tile": vision["image_size"], "patch": vision["patch_size"]}
    ratio = config.text("image_aspect_ratio") or "square"
    budget = re.fullmatch(r"anyres_max_(\d{1,4})", ratio)
    if not ratio.startswith("anyres"):
        rule = {**tile, "class_token": vision["cls_token"], "token_per_tile": side(vision) ** 2}
        return 0, ("fixed", rule), "(image_size / patch_size)²"
    merging = config.text("mm_patch_merge_type")
    if merging != "spatial_unpad" or (ratio != "anyres" and not budget):
        raise AtlasError(
            f"{config.file}: image_aspect_ratio is {ratio!r} with mm_patch_merge_type {merging!r}; only anyres and "
            "anyres_max_N with spatial_unpad can be drafted"
        )
    canvases = _canvases(config, vision["image_size"])
    formula = "tokens of one tile + rows * columns + rows, of the canvas without its padding"
    if budget is None:
        return 1, ("anyres_unpad", {**tile, "class_token": vision["cls_token"], "pinpoints_hw": canvases}), formula
    most = max(max(pair) for pair in canvases) // vision["image_size"]
    if len(canvases) != most**2:
        raise AtlasError(f"{config.file}: image_grid_pinpoints are not all canvases of up to {most} tiles a side")
    limits = {"max_side": most, "max_tiles": int(budget[1])}
    return 1, ("anyres_max", {**tile, **limits}), f"{formula}, scaled to the budget"


def _canvases(config: Source, tile: int) -> list[list[int]]:
    """Canvases to choose from, height and width; the file lists them the other way round, or names the range.

    Raises:
        AtlasError: they are missing, or no pairs of pixels.
    """
    given = config.data.get("image_grid_pinpoints")
    if isinstance(given, str) and (spans := re.findall(r"\((\d+)x(\d+)\)", given)):
        (low, left), (high, right) = spans[0], spans[-1]
        sides = product(range(int(low), int(high) + 1), range(int(left), int(right) + 1))
        return [[rows * tile, columns * tile] for columns, rows in sides]
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            given = None
    whole = isinstance(given, list) and given and all(map(_is_pair, given))
    if not whole:
        raise AtlasError(
            f"{config.file}: image_grid_pinpoints is {config.data.get('image_grid_pinpoints')!r}; "
            "it must be a list of [width, height]"
        )
    assert isinstance(given, list)  # noqa: S101 - it has been looked at
    return [[height, width] for width, height in given]


def _is_pair(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)
