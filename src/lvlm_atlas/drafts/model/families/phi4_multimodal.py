"""Phi-4-multimodal: SigLIP on crops and the whole, each two by two patches averaged. What hears is left out."""

from __future__ import annotations

from lvlm_atlas.drafts.model.encoders import block, needed, side, vit
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Phi-4-multimodal says, which holds the language model's own keys at the top."""
    given = config.part("vision_config").read_by("Phi4MultimodalVisionConfig")
    vision = vit(given, class_token=False, position="learned absolute")
    needed(vision, given.data.get("feature_layer", -2), config.file)
    hidden, mlp = vision["hidden"], vision["mlp"]
    rows = 3 * vision["patch_size"] ** 2 + 1 + side(vision) ** 2 + 2
    # The head that pools is loaded and run, though nothing uses it: a query, attention, a norm and an MLP.
    head = 3 * hidden + 4 * hidden**2 + 4 * hidden + 2 * hidden * mlp + hidden + mlp
    text, text_parameters = llm(config, config, "phi4_multimodal")
    out, tile = text["hidden"], given.number("crop_size")
    most = processor.number("dynamic_hd")
    return Parts(
        vision=vision, vision_parameters=rows * hidden + vision["layers"] * block(vision) + head,
        adapter={
            "type": "average pooling + mlp2x_gelu", "widths": [hidden, out, out], "merge": 4,
            "steps": "average of 2x2 patches, learned vectors at the ends of rows, Linear, GELU, Linear",
        },
        adapter_parameters=hidden * out + out * out + 2 * out + 2 * hidden, llm=text, llm_parameters=text_parameters,
        where="the crops row by row, one learned vector, the whole",
        image=("padded_crops", {"tile": tile, "patch": vision["patch_size"], "max_crops": most}),
        formula="16 * 17 + 1 + rows * (columns + 1) of the tokens that show the image",
        code="transformers, phi4_multimodal",
        notes=(
            "tokens.video: no rule for it is published, so none is written",
            "weights of low rank that the released checkpoint adds to the layers where images come are left out",
        ),
    )  # fmt: skip
