"""Llama-3.2-Vision: tiles that layers of cross-attention read."""

from __future__ import annotations

from lvlm_atlas.drafts.model.encoders import block, side, vit
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source

_OF = "MllamaVisionConfig"


def parts(config: Source, processor: Source) -> Parts:  # noqa: ARG001 - all families are called alike
    """What a configuration of Llama-3.2-Vision says."""
    given = config.part("vision_config").read_by(_OF)
    local = given.number("num_hidden_layers")
    gated = given.number("num_global_layers")
    heads = given.number("attention_heads", "num_attention_heads")
    hidden = given.number("hidden_size")
    mlp = given.number("intermediate_size")
    vision = vit(
        given, class_token=True, position="learned absolute", mlp=mlp,
        attention="full over all tiles of an image, padding masked",
    )  # fmt: skip
    vision |= {
        "layers": local + gated, "layers_needed": local + gated, "hidden": hidden, "heads": heads,
        "head_dim": hidden // heads, "patch_size": given.number("patch_size"),
    }  # fmt: skip
    tiles = given.number("max_num_tiles")
    shapes = given.data.get("supported_aspect_ratios")
    arrangements = 1 + (len(shapes) if isinstance(shapes, list) else sum(tiles // n for n in range(1, tiles + 1)))
    token = side(vision) ** 2 + 1
    # Positions: of a tile's tokens with its gate, the same for each arrangement of tiles, and two embeddings of tiles.
    embeddings = 3 * vision["patch_size"] ** 2 * hidden + hidden + token * hidden + 1
    embeddings += arrangements * tiles * token * hidden + 2 * (arrangements * tiles * hidden + 1) + 2 * 2 * hidden
    layers = (local + gated) * block(vision, qkv_bias=False, other_bias=False) + (local + gated) * (hidden + mlp)
    inner = given.numbers("intermediate_layers_indices")
    into = hidden * (1 + len(inner))

    given_text = config.part("text_config").read_by("MllamaTextConfig")
    text, text_parameters = llm(given_text, config, "mllama_text_model")
    crosses = given_text.numbers("cross_attention_layers")
    text["cross_attention_layers"] = list(crosses) or None
    # A layer of cross-attention normalises queries and keys and has two gates; eight more rows are read than written.
    text_parameters += len(crosses) * (2 * text["head_dim"] + 2) + 8 * text["hidden"]
    return Parts(
        vision=vision, vision_parameters=embeddings + layers + 2 * gated,
        adapter={
            "type": "linear", "widths": [into, text["hidden"]], "merge": 1,
            "steps": "features of inner layers and the last concatenated, Linear",
        },
        adapter_parameters=into * text["hidden"] + text["hidden"], llm=text, llm_parameters=text_parameters,
        injection="cross-attention", where="layers of cross-attention; one marker for each image in the text",
        image=("mllama_canvas", {"tile": vision["image_size"], "patch": vision["patch_size"], "max_tiles": tiles}),
        formula="one text token; tokens of a tile, class token included, times tiles for cross-attention",
        code="transformers, mllama", notes=("tokens.video: no rule for it is published, so none is written",),
    )  # fmt: skip
