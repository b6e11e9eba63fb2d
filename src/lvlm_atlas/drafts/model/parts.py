"""What a family makes of a configuration, before it is written as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lvlm_atlas.drafts.model.source import UNKNOWN, Source


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a model's record. Numbers may be `UNKNOWN` and texts None: then the draft asks for them."""

    vision: dict[str, Any]
    vision_parameters: float
    adapter: dict[str, Any]
    adapter_parameters: float
    llm: dict[str, Any]
    llm_parameters: float
    llm_active: float | None = None
    """Parameters of the language model that one token uses, where experts are chosen."""
    injection: str = "concat"
    """How vision tokens reach the language model."""
    where: str
    """Where they stand."""
    image: tuple[str, Mapping[str, Any]]
    """The rule for images and its arguments."""
    video: tuple[str, Mapping[str, Any], Mapping[str, Any]] | None = None
    """The rule for videos, its arguments, and how many frames are read."""
    video_by: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = field(default_factory=dict)
    """Rules of other software that reads videos, alike, by its name."""
    formula: str
    """The rule for images, for readers."""
    code: str
    """Where the code is that the drafting function follows."""
    notes: tuple[str, ...] = ()
    """What the draft leaves out, a line each."""


def mlp(vision: Mapping[str, Any], llm: Mapping[str, Any], config: Source) -> tuple[dict[str, Any], float]:
    """The two linear layers of LLaVA, with their parameters."""
    into, out = vision["hidden"], llm["hidden"]
    bias = config.read_by("LlavaConfig").truth("multimodal_projector_bias")
    adapter = {
        "type": "mlp2x_gelu", "widths": [into, out, out], "merge": 1, "steps": "Linear, GELU, Linear on each patch",
    }  # fmt: skip
    return adapter, into * out + out * out + 2 * out * bias


def pixels(processor: Source, name: str, of_size: str) -> Any:
    """A limit of pixels of Qwen's processors, by the name of old files, or of the key of `size` in new ones."""
    if name in processor:
        return processor.number(name)
    return processor.part("size").number(of_size) if "size" in processor else UNKNOWN
