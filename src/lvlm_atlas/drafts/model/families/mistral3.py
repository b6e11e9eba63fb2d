"""Mistral-Small-3.1 and its successors: Pixtral's encoder, four patches merged to one token."""

from __future__ import annotations

from lvlm_atlas.drafts.model.encoders import needed, pixtral
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Mistral-3 says."""
    config = config.read_by("Mistral3Config")
    vision, vision_parameters = pixtral(config.part("vision_config"))
    needed(vision, config.data.get("vision_feature_layer", -1), config.file)
    text, text_parameters = llm(config.part("text_config"), config, "mistral")
    merge, bias = config.number("spatial_merge_size"), config.truth("multimodal_projector_bias")
    hidden, out = vision["hidden"], text["hidden"]
    longest = processor.part("size").number("longest_edge")
    return Parts(
        vision=vision, vision_parameters=vision_parameters,
        adapter={
            "type": "patch merger + mlp2x_gelu", "widths": [hidden * merge**2, hidden, out, out], "merge": merge**2,
            "steps": "RMSNorm, neighbours concatenated, Linear without bias, Linear, GELU, Linear",
        },
        adapter_parameters=hidden + merge**2 * hidden**2 + hidden * out + out * out + 2 * out * bias, llm=text,
        llm_parameters=text_parameters, where="each row of tokens ends with a break, the last with an end",
        image=(
            "pixtral_grid",
            {"patch": vision["patch_size"], "merge": merge, "longest_edge": longest},
        ),
        formula="rows * (columns + 1), sides in whole tokens of patch times merge pixels",
        code="transformers, mistral3",
        notes=("tokens.video: no rule for it is published, so none is written",),
    )  # fmt: skip
