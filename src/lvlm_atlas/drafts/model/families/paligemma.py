"""PaliGemma and PaliGemma 2: one square tile, one linear layer."""

from __future__ import annotations

from lvlm_atlas.drafts.model import hybrid
from lvlm_atlas.drafts.model.encoders import encoder, side
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:  # noqa: ARG001 - all families are called alike
    """What a configuration of PaliGemma says. Image and prompt see each other whole, which the engine does not."""
    vision, vision_parameters = encoder(config.part("vision_config"))
    given = config.part("text_config").read_by("Gemma2Config")
    text, text_parameters = llm(given, config, "gemma")
    if given.text("model_type") == "gemma2":
        text |= hybrid.window(given, text["layers"], 2)
    into, out, tile = vision["hidden"], text["hidden"], vision["image_size"]
    token = side(vision) ** 2
    return Parts(
        vision=vision, vision_parameters=vision_parameters,
        adapter={"type": "linear", "widths": [into, out], "merge": 1, "steps": "Linear on each patch"},
        adapter_parameters=into * out + out, llm=text, llm_parameters=text_parameters,
        where="the tokens first, then the beginning of the text",
        image=("fixed", {"tile": tile, "patch": vision["patch_size"], "class_token": False, "token_per_tile": token}),
        formula="(image_size / patch_size)²", code="transformers, paligemma",
        notes=(
            "tokens.video: no rule for it is published, so none is written",
            "image and prompt attend to each other both ways; estimates take a causal mask",
        ),
    )  # fmt: skip
