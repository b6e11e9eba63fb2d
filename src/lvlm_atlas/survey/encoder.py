"""The claim about FLOP per byte of encoding, and what it is computed from."""

from __future__ import annotations

from dataclasses import replace

from lvlm_atlas.roofline.model import Model, TokenRule
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.workload import Image
from lvlm_atlas.survey.claim import Claim, Table
from lvlm_atlas.survey.ground import FUSED, IN_MEMORY, Ground, byte, flop, weight_byte, works

WHOLE = ",.0f"


def intensity(ground: Ground) -> Claim:
    """Row 7."""
    rows = {name: _encoder(ground, model, image) for name, model, image in _encoders(ground)}
    tile = rows[_TILE]
    fused = {name: row[2] for name, row in rows.items() if "if " not in name}
    over = [each / ground.device("a100-sxm-80").ridge("fp16") for each in fused.values()]
    below = ground.device("l40s").ridge("fp16")
    slow = [name for name, each in fused.items() if each < below]
    return Claim(
        number=7, where="appendix E, figure 4", title="Intensity of encoding",
        printed="Encoding has about 1200 FLOP per byte",
        verdict="holds if",
        ours=f"{tile[1]:,.0f} for one InternViT-300M tile by weights alone; {tile[2]:.0f} by all operators",
        rests_on="operations over the bytes of weights alone, one tile of 448×448; the survey names neither encoder "
        "nor derivation, so this is our reading",
        arithmetic=(
            "Counted are the encoder's layers, without patch embedding and adapter. Weights alone ignore what the "
            "layers read and write beside them, which is most of it: a product with a square matrix of width d "
            "cannot exceed d / 2 FLOP per byte in 16 bits however many tokens there are, that is 512 for a width of "
            "1,024, 640 for 1,280 and 1,600 for 3,200.",
            "By the same count prefilling at 512 tokens would be 476 to 507 (claim 6), so the three points of figure "
            "4 do not share one way of counting.",
            f"By all operators a single image is bound by arithmetic on an A100, but {min(over):.1f} to "
            f"{max(over):.1f} times over its ridge and not 8 times. On an L40S, whose ridge is {below:.0f}, these are "
            f"bound by memory as a whole: {'; '.join(slow)}.",
            "Windows are what Qwen2.5-VL has in 28 of 32 layers; the rows with full attention show what the count "
            "would be if all layers attended to all tokens. The two rows of 13 tiles differ in the same way: tiles do "
            "not attend to each other.",
        ),
        tables=(
            Table("Encoder", dict.fromkeys(_HEADS, WHOLE), rows),
        ),
    )  # fmt: skip


_HEADS = ("Tokens", "Weights only", "Fused attention", "Scores in memory")
_TILE = "InternViT-300M, one tile"


def _encoders(ground: Ground) -> list[tuple[str, Model, Image]]:
    """Encoders by name, with a model and an image that make the sequences wanted."""
    clip, siglip = ground.model("llava-1.5-7b"), ground.model("llava-onevision-7b")
    vit, large = ground.model("internvl2.5-8b"), ground.model("internvl3-78b")
    qwen2, qwen = ground.model("qwen2-vl-7b"), ground.model("qwen2.5-vl-7b")
    full = replace(qwen, encoder=replace(qwen.encoder, full_attention_layers=None))
    return [
        ("CLIP-L/14-336", clip, Image(336, 336)),
        ("SigLIP so400m", _one_sequence(siglip), Image(27 * 14, 27 * 14)),
        (_TILE, vit, Image(448, 448)),
        ("InternViT-300M, 13 tiles", vit, Image(800, 600)),
        ("InternViT-300M, if 13 tiles were one sequence", _one_sequence(vit), Image(65 * 14, 205 * 14)),
        ("InternViT-6B, one tile", large, Image(448, 448)),
        ("Qwen2-VL ViT, 640×360", qwen2, Image(640, 360)),
        ("Qwen2.5-VL ViT, 1280×720", qwen, Image(1280, 720)),
        ("Qwen2.5-VL ViT, 1280×720, if attention were full", full, Image(1280, 720)),
        ("Qwen2.5-VL ViT, 1920×1080", qwen, Image(1920, 1080)),
        ("Qwen2.5-VL ViT, 1920×1080, if attention were full", full, Image(1920, 1080)),
    ]


def _one_sequence(model: Model) -> Model:
    """The model with a rule that makes one sequence of the patches of an image as it is."""
    limits = {"patch": 14, "merge": 1, "min_pixels": 1, "max_pixels": 10**8}
    return replace(model, tokens=TokenRule(image="smart_resize", image_params=limits))


def _encoder(ground: Ground, model: Model, image: Image) -> tuple[float, float, float, float]:
    """Tokens, and FLOP per byte of the encoder's layers: of weights, of all, and of all with the scores in memory."""
    estimates = [ground.visual(model, image, how) for how in (FUSED, IN_MEMORY)]
    fused, in_memory = (works(each.stages["encoding"], layer_of_encoder) for each in estimates)
    operations = flop(fused)
    return (
        estimates[0].state.visual.encoder_token,
        operations / weight_byte(fused),
        operations / byte(fused),
        operations / byte(in_memory),
    )


def layer_of_encoder(work: Work) -> bool:
    """Whether an operator belongs to a layer of the encoder: not to the patch embedding or the adapter."""
    return work.name.startswith("encoder.") and work.name != "encoder.patch_embedding"
