"""Idefics3 and SmolVLM: tiles of the enlarged image and one of the whole, pixels shuffled, one linear layer."""

from __future__ import annotations

from lvlm_atlas.drafts.model.encoders import block, side, vit
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Idefics3 or SmolVLM says."""
    vision = vit(
        config.part("vision_config").read_by("Idefics3VisionConfig"), class_token=False, position="learned absolute",
    )  # fmt: skip
    text, text_parameters = llm(config.part("text_config"), config, "llama")
    scale = config.read_by("Idefics3Config").number("scale_factor")
    into, out, hidden = vision["hidden"] * scale**2, text["hidden"], vision["hidden"]
    rows = 3 * vision["patch_size"] ** 2 + 1 + side(vision) ** 2 + 2
    token = side(vision) ** 2 // scale**2
    tile = {"tile": vision["image_size"], "patch": vision["patch_size"]}
    sampling = processor.part("video_sampling")
    video = (
        "video_frames_as_tiles", {**tile, "class_token": False, "token_per_frame": token},
        {"max_frames": sampling.number("max_frames")},
    )  # fmt: skip
    return Parts(
        vision=vision, vision_parameters=rows * hidden + vision["layers"] * block(vision),
        adapter={
            "type": f"pixel shuffle {scale} + linear", "widths": [into, out], "merge": scale**2,
            "steps": "pixel shuffle, Linear without bias",
        },
        adapter_parameters=into * out, llm=text, llm_parameters=text_parameters,
        where="each tile after a fake token and a tag of row and column, rows end in a line break, the whole is last",
        image=(
            "idefics3_split",
            {**tile, "longest_edge": processor.part("size").number("longest_edge"), "token_per_tile": token},
        ),
        video=video if sampling.data else None, formula=f"{token} * (rows * columns + 1)",
        code="transformers, idefics3",
        notes=() if sampling.data else ("tokens.video: the processor says nothing of videos, so no rule is written",),
    )  # fmt: skip
