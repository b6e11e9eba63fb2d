"""Vision encoders as configurations of transformers describe them, with their parameters counted."""

from __future__ import annotations

import math
from typing import Any

from lvlm_atlas.drafts.model.source import ACTIVATIONS, Source
from lvlm_atlas.fault import AtlasError


def vit(
    vision: Source, *, class_token: bool, position: str, heads: str = "num_attention_heads",
    layers: str = "num_hidden_layers", hidden: str = "hidden_size", gated: bool = False, norm: str = "layernorm",
    attention: str = "full", image_size: bool = True, mlp: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The encoder's part of a record.

    Args:
        vision: its configuration.
        class_token: whether each sequence carries a class token.
        position: how positions are told.
        heads: key of the number of heads.
        layers: key of the number of layers.
        hidden: key of the width.
        gated: whether its MLP has a gate.
        norm: kind of its norms.
        attention: who attends to whom.
        image_size: whether images have one size.
        mlp: width of the MLP, where no key gives it.

    Raises:
        AtlasError: a number is none.
    """
    width, count, depth = vision.number(hidden), vision.number(heads), vision.number(layers)
    encoder: dict[str, Any] = {
        "name": vision.text("_name_or_path"),
        "layers": depth,
        "layers_needed": depth,
        "hidden": width,
        "mlp": vision.number("intermediate_size") if mlp is None else mlp,
        "gated_mlp": gated,
        "activation": ACTIVATIONS.get(vision.word("hidden_act", "hidden_activation")),
        "heads": count,
        "head_dim": width // count,
        "norm": norm,
        "patch_size": vision.number("patch_size"),
    }
    if image_size:
        encoder["image_size"] = vision.number("image_size")
    return {**encoder, "cls_token": class_token, "position": position, "attention": attention}


def needed(vision: dict[str, Any], feature_layer: object, file: str) -> None:
    """Set the layers that are needed from the layer whose features are used, counted from the end if negative.

    Raises:
        AtlasError: features of several layers are used, or of none that exists.
    """
    layers = vision["layers"]
    if feature_layer is None or math.isnan(layers):
        return
    if not isinstance(feature_layer, int) or isinstance(feature_layer, bool):
        raise AtlasError(f"{file}: vision_feature_layer is {feature_layer!r}; only single layers can be drafted")
    count = layers + 1 + feature_layer if feature_layer < 0 else feature_layer
    if not 1 <= count <= layers:
        raise AtlasError(f"{file}: vision_feature_layer is {feature_layer}, but the encoder has {layers} layers")
    vision["layers_needed"] = count


def block(vision: dict[str, Any], *, qkv_bias: bool = True, other_bias: bool = True) -> float:
    """Parameters of one layer: projections, MLP and two norms."""
    hidden, mlp = vision["hidden"], vision["mlp"]
    wide = vision["heads"] * vision["head_dim"]
    up = 2 if vision["gated_mlp"] else 1
    count: float = 4 * hidden * wide + (up + 1) * hidden * mlp
    count += 3 * wide * qkv_bias + (2 * hidden + up * mlp) * other_bias
    count += 2 * hidden * (2 if vision["norm"] == "layernorm" else 1)
    return count


def side(vision: dict[str, Any]) -> Any:
    """Patches along a side of a tile."""
    return vision["image_size"] // vision["patch_size"]


def clip(vision: Source) -> tuple[dict[str, Any], float]:
    """CLIP, with its parameters."""
    encoder = vit(vision.read_by("CLIPVisionConfig"), class_token=True, position="learned absolute")
    hidden = encoder["hidden"]
    rows = 3 * encoder["patch_size"] ** 2 + 1 + side(encoder) ** 2 + 1
    return encoder, (rows + 4) * hidden + encoder["layers"] * block(encoder)  # a norm before all layers and one after


def siglip(vision: Source) -> tuple[dict[str, Any], float]:
    """SigLIP without its pooling head, with its parameters."""
    encoder = vit(vision.read_by("SiglipVisionConfig"), class_token=False, position="learned absolute")
    rows = 3 * encoder["patch_size"] ** 2 + 1 + side(encoder) ** 2
    return encoder, (rows + 2) * encoder["hidden"] + encoder["layers"] * block(encoder)


def pixtral(vision: Source) -> tuple[dict[str, Any], float]:
    """Pixtral's own encoder, with its parameters: no bias anywhere, a norm before the first layer."""
    encoder = vit(
        vision.read_by("PixtralVisionConfig"), class_token=False, position="2D RoPE", gated=True, norm="rmsnorm",
        attention="full within each image", image_size=False,
    )  # fmt: skip
    rows = 3 * encoder["patch_size"] ** 2 + 1
    layer = block(encoder, qkv_bias=False, other_bias=False)
    return encoder, rows * encoder["hidden"] + encoder["layers"] * layer


ENCODERS = {"clip_vision_model": clip, "siglip_vision_model": siglip, "pixtral": pixtral}
"""Encoders that LLaVA and its successors use, by `model_type`."""


def encoder(vision: Source) -> tuple[dict[str, Any], float]:
    """The encoder of a LLaVA, with its parameters.

    Raises:
        AtlasError: its kind is none that is known.
    """
    name = vision.text("model_type") or ""
    if name not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise AtlasError(f"{vision.file}: {vision.place}model_type is {name!r}, which is not known; known: {known}")
    return ENCODERS[name](vision)
