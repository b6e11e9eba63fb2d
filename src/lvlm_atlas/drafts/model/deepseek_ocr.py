"""DeepSeek-OCR, which shares the name of DeepSeek-VL2's family: SAM hands its patches on to CLIP, and both are seen."""

from __future__ import annotations

from typing import Any

from lvlm_atlas.drafts.model.encoders import block, vit
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source
from lvlm_atlas.fault import AtlasError

NAME = "deeplip_b_l"
"""Its `vision_config.model_name`."""
SAM_PATCH, SAM_SIDE, WINDOW, NECK, RATIO = 16, 1024, 14, 256, 4
"""What the released code fixes of SAM: sides of a patch and of an image in pixels, of a window in patches; channels of
its neck; widths of its MLP in hidden ones."""
STEPS = 2
"""Convolutions that halve the sides of the patch grid."""
TILES = {"frame": 1024, "tile": 640, "min_tiles": 2, "max_tiles": 6}
"""What servers fix of the images: the mode that cuts them."""


def parts(config: Source, llm: tuple[dict[str, Any], float, float | None]) -> Parts:
    """What a configuration of DeepSeek-OCR says.

    Args:
        config: the configuration.
        llm: the language model, its parameters, and those that one token uses.

    Raises:
        AtlasError: the projector is another.
    """
    text, text_parameters, text_active = llm
    widths = config.part("vision_config").part("width")
    clip = widths.part("clip-l-14-224")
    given = {
        "hidden_size": clip.number("width"), "intermediate_size": RATIO * clip.number("width"),
        "num_hidden_layers": clip.number("layers"), "num_attention_heads": clip.number("heads"),
        "patch_size": clip.number("patch_size"), "hidden_act": "quick_gelu",
    }  # fmt: skip
    shapes = Source(given, clip.place, clip.file, clip.said)
    vision = vit(shapes, class_token=True, position="learned absolute", image_size=False)
    front, front_parameters = _front(widths.part("sam_vit_b"))
    hidden = vision["hidden"]
    # Its own patch embedding is loaded, though nothing uses it; a norm before all layers, none after.
    rows = 3 * vision["patch_size"] ** 2 + 1 + (clip.number("image_size") // vision["patch_size"]) ** 2 + 1 + 2
    vision |= {"front": front, "patch_size": SAM_PATCH * 2**STEPS}
    projector = config.part("projector_config")
    if (kind := projector.word("projector_type")) != "linear":
        raise AtlasError(f"{config.file}: {projector.place}projector_type is {kind!r}; only linear is known")
    into, out = projector.number("input_dim"), projector.number("n_embed")
    return Parts(
        vision=vision, vision_parameters=rows * hidden + vision["layers"] * block(vision) + front_parameters,
        adapter={
            "type": "linear", "widths": [into, out], "merge": 1,
            "steps": "what both encoders make of a patch, Linear, learned newline and separator",
        },
        adapter_parameters=(into + 1) * out + 2 * text["hidden"], llm=text, llm_parameters=text_parameters,
        llm_active=text_active, where="crops first, then the whole, each row ends with a newline vector; a separator",
        image=("framed_crops", {**TILES, "patch": vision["patch_size"]}),
        formula="16 * 17 + 1, and (10 * rows) * (10 * columns + 1) of an image larger than 640 pixels",
        code="vllm-project/vllm, deepencoder.py at 0fd1570",
        notes=("tokens.video: the family reads no video",),
    )  # fmt: skip


def _front(sam: Source) -> tuple[dict[str, Any], float]:
    """SAM's encoder, and its parameters.

    Raises:
        AtlasError: it has other convolutions.
    """
    hidden, layers, heads = sam.number("width"), sam.number("layers"), sam.number("heads")
    full, channels = sam.numbers("global_attn_indexes"), sam.numbers("downsample_channels")
    if len(channels) != STEPS:
        raise AtlasError(f"{sam.file}: {sam.place}downsample_channels is {channels}; it must be {STEPS} numbers")
    first, second = channels
    convolutions = [
        {"kernel": 1, "into": hidden, "out": NECK}, {"kernel": 3, "into": NECK, "out": NECK},
        {"kernel": 3, "stride": 2, "into": NECK, "out": first},
        {"kernel": 3, "stride": 2, "into": first, "out": second},
    ]  # fmt: skip
    side = SAM_SIDE // SAM_PATCH
    layer = 4 * hidden * (hidden + 1) + 2 * RATIO * hidden**2 + (RATIO + 1) * hidden + 4 * hidden
    # Each layer has rows of relative positions along both sides of what it attends to.
    places = 2 * (len(full) * (2 * side - 1) + (layers - len(full)) * (2 * WINDOW - 1)) * (hidden // heads)
    kernels = sum(each["kernel"] ** 2 * each["into"] * each["out"] for each in convolutions)
    count = (3 * SAM_PATCH**2 + 1 + side**2) * hidden + layers * layer + places + kernels + 4 * NECK
    return {
        "layers": layers, "hidden": hidden, "mlp": RATIO * hidden, "heads": heads, "patch_size": SAM_PATCH,
        "window": WINDOW, "full_attention_layers": list(full), "convolutions": convolutions,
    }, count  # fmt: skip
