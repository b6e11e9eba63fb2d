"""The types of a quantised checkpoint's weights, as its configuration tells them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lvlm_atlas.drafts.model.source import Source

_VISION = re.compile(r"visual|vision|image|merger|mlp1|projector")
"""What modules of encoder and adapter are called."""
Types = tuple[str, bool]
"""The type of a quantised weight as `--weight-dtype` takes it, and whether all linear layers but those named have it
(or the LLM's alone)."""


def quantised(source: Source) -> str | None:
    """The types of the weights as `--weight-dtype` takes them; None: they are not quantised, or are said to be unread.

    Args:
        source: the whole configuration.
    """
    for place in (source, source.part("text_config")):
        for key, read in (("quantization_config", _hub), ("quantization", _mlx), ("compression_config", _hub)):
            if key in place:
                return _said(source, place.part(key), read)
    return None


def _said(source: Source, config: Source, read: Callable[[Mapping[str, Any]], Types | None]) -> str | None:
    """What a configuration of the quantisation comes to, and a note of it."""
    name = config.place.rstrip(".")
    types = read(config.data)
    if types is None:
        method = config.data.get("quant_method", "no method")
        source.said.append(
            f"{name} ({method}) is not read, so weights count in 16 bits; `weight_dtype` can say what they are"
        )
        return None
    type_, all_linear = types
    if read is _mlx:
        text = f"llm={type_}+embedding={type_}+head={type_}"
    else:
        vision = all_linear and not any(_VISION.search(each) for each in _left_out(config.data))
        text = f"llm={type_}" + (f"+encoder={type_}+adapter={type_}" if vision else "")
    source.said.append(f"weight_dtype is {text}, read from {name}; norms and what that does not name stay in 16 bits")
    return text


def _left_out(data: Mapping[str, Any]) -> list[str]:
    """Modules that stay as they are."""
    lists = [data.get(key) for key in ("modules_to_not_convert", "ignore", "ignored_layers", "llm_int8_skip_modules")]
    lists += [data.get("exclude_modules")]
    return [str(each) for found in lists if isinstance(found, list) for each in found]


def _hub(data: Mapping[str, Any]) -> Types | None:
    """`quantization_config`, as transformers and vLLM read it."""
    method = str(data.get("quant_method", "")).lower().replace("_", "-")
    if method in ("awq", "gptq", "auto-round", "autoround"):
        type_ = _grouped(data.get("bits", 4), data.get("group_size", 128))
        return (type_, False) if type_ else None
    if method in ("fp8", "fbgemm-fp8"):
        block = data.get("weight_block_size")
        side = block[0] if isinstance(block, list) and block and isinstance(block[0], int) else None
        return (f"fp8-g{side}" if side else "fp8"), True
    if method in ("bitsandbytes", ""):
        if data.get("load_in_4bit"):
            return ("int4-g64-s8" if data.get("bnb_4bit_use_double_quant") else "int4-g64-s32"), True
        return ("int8", True) if data.get("load_in_8bit") else None
    if method == "compressed-tensors":
        return _compressed(data)
    if method == "modelopt":
        type_ = {"NVFP4": "nvfp4", "FP8": "fp8"}.get(str(data.get("quant_algo")))
        return (type_, True) if type_ else None
    return ("mxfp4", True) if method == "mxfp4" else None


def _compressed(data: Mapping[str, Any]) -> Types | None:
    """The format of llm-compressor: groups of modules, of which the first says how weights are."""
    groups = data.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        return None
    bits, group = weights.get("num_bits"), weights.get("group_size")
    if weights.get("type") == "float":
        if bits == 4 and isinstance(group, int) and not isinstance(group, bool) and 0 < group < 10**5:
            return f"fp4-g{group}", True
        return ("fp8", True) if bits == 8 else None
    type_ = _grouped(bits, group, zero_point=not weights.get("symmetric", True))
    return (type_, True) if type_ else None


def _mlx(data: Mapping[str, Any]) -> Types | None:
    """`quantization`, as MLX writes it: a scale and a bias of 16 bits each for a group; the vision tower stays."""
    type_ = _grouped(data.get("bits"), data.get("group_size"))
    return (f"{type_}-s32", False) if type_ and "-g" in type_ else None


def _grouped(bits: Any, group: Any, *, zero_point: bool = True) -> str | None:
    """A type of integers; None where there is none of so many bits."""
    if bits not in (2, 4, 8) or isinstance(bits, bool):
        return None
    if not isinstance(group, int) or isinstance(group, bool) or not 0 < group < 10**5:
        return f"int{bits}"
    return f"int{bits}-g{group}" + ("" if zero_point else "-s16")
