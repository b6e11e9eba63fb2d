"""LLaVA-OneVision: more canvases, and a budget of tiles."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

from lvlm_atlas.drafts.model.encoders import side
from lvlm_atlas.drafts.model.families import llava, llava_next
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import UNKNOWN, Source
from lvlm_atlas.fault import AtlasError


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of LLaVA-OneVision says.

    Raises:
        AtlasError: its canvases are not all those of so many tiles a side, or its budget of tiles is unknown.
    """
    given = dict(config.data)
    given.setdefault("vision_feature_layer", -1)
    base = llava.parts(replace(config, data=given), processor)
    tile, patch = base.vision["image_size"], base.vision["patch_size"]
    frame = {"tile": tile, "patch": patch, "class_token": base.vision["cls_token"]}
    most = max(max(pair) for pair in llava_next.canvases(config)) // tile
    squares = {(a * tile, b * tile) for a, b in product(range(1, most + 1), repeat=2)}
    if {(a, b) for a, b in llava_next.canvases(config)} != squares:
        raise AtlasError(f"{config.file}: image_grid_pinpoints are not all canvases of up to {most} tiles a side")
    budget = re.fullmatch(r"anyres_max_(\d{1,4})", config.text("vision_aspect_ratio") or "anyres_max_9")
    if not budget:
        raise AtlasError(f"{config.file}: vision_aspect_ratio is no budget such as anyres_max_9")
    pooled = -(-side(base.vision) // 2)
    return replace(
        base, adapter_parameters=base.adapter_parameters + base.llm["hidden"],  # the newline vector
        where="the tile of the whole image, then the canvas row by row, each row ending in a learned newline vector",
        image=("anyres_max", {"tile": tile, "patch": patch, "max_side": most, "max_tiles": int(budget[1])}),
        video=(
            "video_frames_as_tiles",
            {
                **frame, "token_per_frame": pooled**2, "adapter_token_per_frame": side(base.vision) ** 2,
                "newline_token": 1,
            },
            {"max_frames": UNKNOWN},
        ),
        formula="tokens of one tile + rows * columns + rows, of the canvas without its padding, scaled to the budget",
        code="transformers, llava_onevision", notes=(),
    )  # fmt: skip
