"""Gemma-4: every image as large as a budget of tokens holds, heads of their own in the layers that see everything."""

from __future__ import annotations

from lvlm_atlas.drafts.model.encoders import block, vit
from lvlm_atlas.drafts.model.llms import llm, parameters
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source

VIDEO_FRAMES, VIDEO_TOKENS = 32, 70
"""Frames that the class of the family's video processor reads, and the budget of each."""


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Gemma-4 says."""
    text_given = config.part("text_config").read_by("Gemma4TextConfig")
    given = config.part("vision_config").read_by("Gemma4VisionConfig")
    vision = vit(
        given, class_token=False, position="learned, and 2D RoPE", gated=True, norm="rmsnorm",
        attention="full within each image", image_size=False,
    )  # fmt: skip
    hidden = vision["hidden"]
    # Two norms more than most encoders have, and one of each head's queries and keys.
    layer = block(vision, qkv_bias=False, other_bias=False) + 2 * hidden + 2 * vision["head_dim"]
    rows = 3 * vision["patch_size"] ** 2 + 2 * given.number("position_embedding_size")
    text, text_parameters = llm(text_given, config, "gemma4_text")
    beside = 0.0
    if "experts" in text:  # three norms and a scale of the router's input, and a scale of each expert
        beside = text["layers"] * (4 * text["hidden"] + text["experts"]["routed"])
    side = given.number("pooling_kernel_size")
    budget = processor.number("max_soft_tokens")
    if "max_soft_tokens" not in processor:
        budget = given.number("default_output_length")
    params = {"patch": vision["patch_size"], "merge": side}
    return Parts(
        vision=vision, vision_parameters=rows * hidden + vision["layers"] * layer,
        adapter={
            "type": "average pooling + linear", "widths": [hidden, text["hidden"]], "merge": side**2,
            "steps": "average pooling, RMSNorm without weights, Linear without bias",
        },
        adapter_parameters=hidden * text["hidden"], llm=text, llm_parameters=text_parameters + beside,
        llm_active=parameters(text, 4, active=True) + beside if "experts" in text else None,
        where="begin of image, the tokens, end of image",
        image=("patch_budget", {**params, "max_tokens": budget}),
        video=(
            "video_frames_as_images", {"rule": "patch_budget", **params, "max_tokens": VIDEO_TOKENS},
            {"min_frames": VIDEO_FRAMES, "max_frames": VIDEO_FRAMES},
        ),
        formula="the most whole tokens of the image's shape within the budget", code="transformers, gemma4",
        notes=("vision tokens of an image attend to each other both ways; estimates take a causal mask",),
    )  # fmt: skip
