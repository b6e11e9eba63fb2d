"""DeepSeek-VL2: SigLIP on a view of the whole and tiles of a canvas, four patches merged, experts in the LLM."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from lvlm_atlas.drafts.model import deepseek_ocr
from lvlm_atlas.drafts.model.encoders import siglip
from lvlm_atlas.drafts.model.llms import llm, parameters
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source
from lvlm_atlas.fault import AtlasError, suggestion

ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "siglip_so400m_patch14_384": {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "patch_size": 14, "image_size": 384,
    },
}  # fmt: skip
"""Encoders by `vision_config.model_name`; the released code takes their sizes from its own table, not from the file."""
LATENT = ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
"""Keys of latent attention, which files give as null or 0 where `use_mla` is false."""


def parts(config: Source, processor: Source) -> Parts:  # noqa: ARG001 - all families are called alike
    """What a configuration of DeepSeek-VL2 says, or of DeepSeek-OCR, which has the same name.

    Raises:
        AtlasError: the encoder or the projector is another.
    """
    if config.part("vision_config").text("model_name") == deepseek_ocr.NAME:
        return deepseek_ocr.parts(config, _llm(config))
    vision, vision_parameters = siglip(_encoder(config))
    text, text_parameters, text_active = _llm(config)
    adapter, adapter_parameters = _adapter(config.part("projector_config"), text["hidden"])
    merge = int(adapter["merge"] ** 0.5)
    most = _tiles(config, vision["image_size"])
    side = -(-(vision["image_size"] // vision["patch_size"]) // merge)
    return Parts(
        vision=vision, vision_parameters=vision_parameters, adapter=adapter, adapter_parameters=adapter_parameters,
        llm=text, llm_parameters=text_parameters, llm_active=text_active,
        where="global view rows + separator + local grid rows, each row ends with a newline vector",
        image=(
            "deepseek_vl2_tiles",
            {
                "tile": vision["image_size"], "patch": vision["patch_size"], "merge": merge, "max_tiles": most,
                "max_tiled_images": 2,
            },
        ),
        formula=f"{side}*{side + 1} + 1 + ({side}*t_h)*({side}*t_w + 1)",
        code="deepseek-ai/DeepSeek-VL2 at ef9f91e, modeling_deepseek_vl_v2.py",
        notes=(
            "the encoder's pooling head is loaded and not used, so it is not counted",
            "tokens.video: the family reads no video",
        ),
    )  # fmt: skip


def _encoder(config: Source) -> Source:
    given = config.part("vision_config")
    name = given.text("model_name") or ""
    if name not in ENCODERS:
        raise AtlasError(
            f"{config.file}: vision_config.model_name is {name!r}, which is not known; {suggestion(name, ENCODERS)}"
        )
    return Source(ENCODERS[name], given.place, given.file, given.said)


def _llm(config: Source) -> tuple[dict[str, Any], float, float | None]:
    """The language model, its parameters, and those that one token uses."""
    given = config.part("language_config").read_by("DeepseekVLV2TextConfig")
    if not given.truth("use_mla"):
        given = Source({**given.data, **dict.fromkeys(LATENT)}, given.place, given.file, given.said)
    text, count = llm(given, config, "deepseek_vl_v2_text")
    if "mla" in text:
        text["head_dim"] = text["mla"]["v_dim"]
    if "experts" not in text:
        return text, count, None
    # Scores of experts are corrected by a bias, which only chooses, where the gate balances them without a loss.
    corrected = 0.0
    if given.text("topk_method") == "noaux_tc":
        corrected = text["experts"]["routed"] * (text["layers"] - text["experts"]["dense_layers"])
    return text, count + corrected, parameters(text, 2, active=True)


def _adapter(given: Source, hidden: Any) -> tuple[dict[str, Any], float]:
    """The projector with its newline and separator, and its parameters."""
    given = given.read_by("MlpProjectorConfig")
    kind = given.word("projector_type")
    if kind != "downsample_mlp_gelu":
        raise AtlasError(f"{given.file}: {given.place}projector_type is {kind!r}; only downsample_mlp_gelu is known")
    ratio, depth = given.number("downsample_ratio"), given.number("depth")
    out, wide = given.number("n_embed"), given.number("n_embed") * given.number("mlp_ratio")
    widths = [given.number("input_dim") * ratio**2, *[wide] * (depth - 1), out]
    count = sum((into + 1) * each for into, each in pairwise(widths)) + 2 * hidden
    steps = ", GELU, ".join(["Linear"] * depth)
    return {
        "type": kind, "widths": widths, "merge": ratio**2,
        "steps": f"{ratio}x{ratio} patches concatenated, padded to whole ones; {steps}; learned newline and separator",
    }, count  # fmt: skip


def _tiles(config: Source, tile: int) -> int:
    """Tiles of the largest canvas. The rule takes all canvases of at most so many.

    Raises:
        AtlasError: the file lists others.
    """
    listed = config.data.get("candidate_resolutions")
    if not isinstance(listed, list) or not listed:
        raise AtlasError(f"{config.file}: candidate_resolutions is {listed!r}; it must list sides of canvases")
    try:
        found = {(int(tall) // tile, int(wide) // tile) for tall, wide in listed}
    except (TypeError, ValueError):
        raise AtlasError(f"{config.file}: candidate_resolutions holds what is no pair of sides") from None
    most = max((tall * wide for tall, wide in found), default=0)
    every = {(tall, wide) for tall in range(1, most + 1) for wide in range(1, most // tall + 1)}
    if found != every:
        raise AtlasError(
            f"{config.file}: candidate_resolutions are not all canvases of {most} tiles at most, which alone the rule "
            "deepseek_vl2_tiles knows; write this record by hand"
        )
    return most
