"""LLaVA-NeXT: tiles of a canvas, padding thrown away after the encoder."""

from __future__ import annotations

from dataclasses import replace

from lvlm_atlas.drafts.model.families import llava
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source
from lvlm_atlas.fault import AtlasError


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of LLaVA-NeXT says.

    Raises:
        AtlasError: it lists no canvases.
    """
    base = llava.parts(config, processor)
    params = {name: base.image[1][name] for name in ("tile", "patch", "class_token")}
    return replace(
        base, adapter_parameters=base.adapter_parameters + base.llm["hidden"],  # the newline vector
        where="the tile of the whole image, then the canvas row by row, each row ending in a learned newline vector",
        image=("anyres_unpad", {**params, "pinpoints_hw": canvases(config)}), code="transformers, llava_next",
        formula="tokens of one tile + rows * columns + rows, of the canvas without its padding",
    )  # fmt: skip


def canvases(config: Source) -> list[list[int]]:
    """Canvases to choose from, height and width.

    Raises:
        AtlasError: they are missing, or no pairs of pixels.
    """
    given = config.data.get("image_grid_pinpoints")
    if not isinstance(given, list) or not given or not all(_is_pair(each) for each in given):
        raise AtlasError(f"{config.file}: image_grid_pinpoints is {given!r}; it must be a list of [height, width]")
    return given


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)
