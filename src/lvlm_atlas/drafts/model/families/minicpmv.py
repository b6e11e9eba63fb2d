"""MiniCPM-V 2.6, 4 and 4.5: SigLIP on slices of about one area, each resampled to a fixed number of tokens."""

from __future__ import annotations

from collections.abc import Mapping

from lvlm_atlas.drafts.model.encoders import block, side, vit
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import UNKNOWN, Source
from lvlm_atlas.fault import AtlasError, suggestion

LLMS: Mapping[str, str] = {"2.6": "qwen2", "4.0": "llama", "4.5": "qwen3"}
"""Language models by `version`; the released code takes them from it."""
HEAD = 128
"""Width of a head of the resampler's attention."""


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of MiniCPM-V says, which holds the language model's own keys at the top.

    Raises:
        AtlasError: it is of a version whose language model is not known.
    """
    version = str(config.data.get("version"))
    if version not in LLMS:
        raise AtlasError(f"{config.file}: version is {version}, which is not known; {suggestion(version, LLMS)}")
    vision = vit(config.part("vision_config").read_by("SiglipVisionConfig"), class_token=False, position="learned")
    if config.truth("drop_vision_last_layer"):
        vision["layers"] = vision["layers_needed"] = vision["layers"] - 1
    hidden, into = vision["hidden"], vision["hidden"]
    rows = 3 * vision["patch_size"] ** 2 + 1 + side(vision) ** 2 + 2
    given = {**config.data, "model_type": LLMS[version]}
    text, text_parameters = llm(Source(given, config.place, config.file, config.said), config)
    out, queries = text["hidden"], config.number("query_num")
    # Queries, keys' projection from the encoder, attention with biases, three norms, projection of what it gives.
    resampler = queries * out + into * out * (into != out) + 5 * out**2 + 4 * out + 6 * out
    cut = config.part("slice_config") if config.part("slice_config").data else processor
    vision["image_size"] = cut.number("scale_resolution")  # of a slice; its place in the table is interpolated
    slices = {"scale": vision["image_size"], "patch": vision["patch_size"], "queries": queries}
    return Parts(
        vision=vision, vision_parameters=rows * hidden + vision["layers"] * block(vision),
        adapter={
            "type": "perceiver resampler (1 cross-attention layer)", "widths": [into, out], "queries": queries,
            "heads": out // HEAD, "steps": f"any number of patches → {queries} per slice",
        },
        adapter_parameters=resampler, llm=text, llm_parameters=text_parameters,
        where="overview between image markers, then slices between slice markers, rows separated by a line break",
        image=("minicpm_slice", {**slices, "max_slices": cut.number("max_slice_nums")}),
        video=(
            "video_frames_as_images", {"rule": "minicpm_slice", **slices, "max_slices": 1}, {"max_frames": UNKNOWN},
        ),
        formula=f"{queries} * (1 + slices)", code="vllm-project/vllm at 73fb7a4, minicpmv.py",
        notes=("frames that callers give MiniCPM-V 4.5 to resample together share their tokens; here each has its own",)
        if version == "4.5" else (),
    )  # fmt: skip
