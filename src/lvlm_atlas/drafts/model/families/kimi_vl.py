"""Kimi-VL: MoonViT at native resolution, latent attention and experts in the language model."""

from __future__ import annotations

from lvlm_atlas.drafts.model.encoders import block, vit
from lvlm_atlas.drafts.model.llms import llm, parameters
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Kimi-VL says."""
    return parts_of(config, config.part("vision_config").read_by("MoonViTConfig"), processor.number("in_token_limit"))


def parts_of(config: Source, given: Source, limit: float, *, code: str = "moonshotai/Kimi-VL") -> Parts:
    """What a configuration of Kimi-VL says, or of Kimi-K2.5, which has its encoder.

    Args:
        config: the configuration.
        given: that of its encoder.
        limit: most patches of an image.
        code: where the code is.
    """
    vision = vit(
        given, class_token=False, position="learned, interpolated, and 2D RoPE", attention="full within each image",
        image_size=False,
    )  # fmt: skip
    hidden = vision["hidden"]
    tall, wide = (given.number(f"init_pos_emb_{each}", f"pos_emb_{each}") for each in ("height", "width"))
    merge = given.number("merge_kernel_size") ** 2
    text, text_parameters = llm(config.part("text_config"), config, "deepseek_v3")
    into, out = hidden * merge, text["hidden"]
    rows = 3 * vision["patch_size"] ** 2 + 1 + tall * wide + 2
    params = {"patch": vision["patch_size"], "merge": given.number("merge_kernel_size"), "max_patches": limit}
    return Parts(
        vision=vision, vision_parameters=rows * hidden + vision["layers"] * block(vision),
        adapter={
            "type": "patch merger MLP", "widths": [into, into, out], "merge": merge,
            "steps": "LayerNorm, neighbours concatenated, Linear, GELU, Linear",
        },
        adapter_parameters=2 * hidden + into * into + into + into * out + out, llm=text,
        llm_parameters=text_parameters, llm_active=parameters(text, 2, active=True) if "experts" in text else None,
        where="start of the medium, the tokens, end of the medium", image=("navit_pad", params),
        formula="sides in whole tokens of patch times merge pixels, padded; shrunk to the limit of patches first",
        code=code, notes=("tokens.video: no rule for it is written",),
    )  # fmt: skip
