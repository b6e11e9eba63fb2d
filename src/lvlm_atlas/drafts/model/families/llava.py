"""LLaVA-1.5: one square tile, two linear layers."""

from __future__ import annotations

from lvlm_atlas.drafts.model.encoders import encoder, needed, side
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts, mlp
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:  # noqa: ARG001 - all families are called alike
    """What a configuration of LLaVA says."""
    vision, vision_parameters = encoder(config.part("vision_config"))
    needed(vision, config.data.get("vision_feature_layer", -2), config.file)
    text, text_parameters = llm(config.part("text_config"), config, "llama")
    adapter, adapter_parameters = mlp(vision, text, config)
    kept = vision["cls_token"] and config.data.get("vision_feature_select_strategy") == "full"
    tile = {"tile": vision["image_size"], "patch": vision["patch_size"], "class_token": vision["cls_token"]}
    return Parts(
        vision=vision, vision_parameters=vision_parameters, adapter=adapter, adapter_parameters=adapter_parameters,
        llm=text, llm_parameters=text_parameters, where="the image placeholder is replaced by the tokens",
        image=("fixed", {**tile, "token_per_tile": side(vision) ** 2 + kept}), formula="(image_size / patch_size)²",
        code="transformers, llava", notes=("tokens.video: no rule for it is published, so none is written",),
    )  # fmt: skip
