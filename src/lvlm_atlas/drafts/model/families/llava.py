"""LLaVA-1.5: one square tile, two linear layers. Pixtral has the same form, and an encoder that takes any size."""

from __future__ import annotations

from typing import Any

from lvlm_atlas.drafts.model import original_llava
from lvlm_atlas.drafts.model.encoders import encoder, needed, side
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts, mlp
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of LLaVA says, in the form of transformers or of its authors."""
    if original_llava.is_one(config):
        return original_llava.parts(config)
    vision, vision_parameters = encoder(config.part("vision_config"))
    needed(vision, config.data.get("vision_feature_layer", -2), config.file)
    text, text_parameters = llm(config.part("text_config"), config, "llama")
    adapter, adapter_parameters = mlp(vision, text, config)
    where, image, formula = _tokens(vision, config, processor)
    return Parts(
        vision=vision, vision_parameters=vision_parameters, adapter=adapter, adapter_parameters=adapter_parameters,
        llm=text, llm_parameters=text_parameters, where=where, image=image, formula=formula,
        code="transformers, llava", notes=("tokens.video: no rule for it is published, so none is written",),
    )  # fmt: skip


def _tokens(vision: dict[str, Any], config: Source, processor: Source) -> tuple[str, tuple[str, dict[str, Any]], str]:
    """Where tokens stand, the rule for images with its arguments, and the rule for readers."""
    if "image_size" not in vision:
        longest = processor.part("size").number("longest_edge")
        image = ("pixtral_grid", {"patch": vision["patch_size"], "merge": 1, "longest_edge": longest})
        return "each row of tokens ends with a break, the last with an end", image, "rows * (columns + 1)"
    kept = vision["cls_token"] and config.data.get("vision_feature_select_strategy") == "full"
    tile = {"tile": vision["image_size"], "patch": vision["patch_size"], "class_token": vision["cls_token"]}
    rule = ("fixed", {**tile, "token_per_tile": side(vision) ** 2 + kept})
    return "the image placeholder is replaced by the tokens", rule, "(image_size / patch_size)²"
