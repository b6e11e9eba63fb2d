"""Llama-4: tiles of a canvas, pixels shuffled, layers with experts and layers that see chunks of the sequence."""

from __future__ import annotations

from lvlm_atlas.drafts.model import hybrid
from lvlm_atlas.drafts.model.encoders import block, side, vit
from lvlm_atlas.drafts.model.llms import llm, parameters
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source
from lvlm_atlas.fault import AtlasError


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Llama-4 says.

    Raises:
        AtlasError: pixels are shuffled by no whole number.
    """
    given = config.part("vision_config").read_by("Llama4VisionConfig")
    vision = vit(given, class_token=True, position="learned and 2D RoPE")
    hidden, mlp = vision["hidden"], vision["mlp"]
    rows = 3 * vision["patch_size"] ** 2 + 1 + side(vision) ** 2 + 1 + 4  # patches, class, positions, two norms
    ratio = given.data.get("pixel_shuffle_ratio", 0.5)
    if not isinstance(ratio, float) or not 0 < ratio <= 1 or (1 / ratio) % 1:
        raise AtlasError(f"{config.file}: pixel_shuffle_ratio is {ratio!r}; it must be one over a whole number")
    merge = round(1 / ratio) ** 2
    text_given = config.part("text_config").read_by("Llama4TextConfig")
    text, text_parameters = llm(text_given, config, "llama4_text")
    text |= hybrid.window(text_given, text["layers"], 4, "attention_chunk_size")
    inner, out, into = given.number("projector_input_dim"), given.number("projector_output_dim"), text["hidden"]
    last = given.number("vision_output_dim")
    token = side(vision) ** 2 // merge
    return Parts(
        vision=vision, vision_parameters=rows * hidden + vision["layers"] * block(vision),
        adapter={
            "type": f"pixel shuffle {ratio:g} + MLP + linear", "widths": [mlp, inner, out, into], "merge": merge,
            "steps": "pixel shuffle, Linear, GELU, Linear, GELU, Linear, none with a bias",
        },
        adapter_parameters=mlp * inner + inner * out + last * into, llm=text, llm_parameters=text_parameters,
        llm_active=parameters(text, 2, active=True),
        where="start of image, tiles with separators between and behind rows, the whole, end of image",
        image=(
            "canvas_tiles",
            {
                "tile": vision["image_size"], "patch": vision["patch_size"], "class_token": True,
                "max_tiles": processor.number("max_patches"), "token_per_tile": token,
            },
        ),
        formula=f"{token} * (n + [n > 1]), n tiles of the canvas that enlarges the image least",
        code="transformers, llama4",
        notes=(
            "llm.sliding_window: layers that see chunks are taken to see a window as wide, at most twice what they see",
            "tokens.video: no rule for it is published, so none is written",
        ),
    )  # fmt: skip
