"""What a prediction starts from: a model with a request, and the techniques of a stack at their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.places import effect_place
from lvlm_atlas.schema.effect import Effect, Overhead
from lvlm_atlas.schema.technique import Technique


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A model and a request, before any technique."""

    frames: int
    patches: int
    """Patches of a frame."""
    frames_a_patch: int
    """Frames that one patch spans; the last patches of a video may be filled up."""
    patches_a_token: int
    """Patches that the adapter makes one vision token of."""
    prefix: int
    """Tokens that the encoder sees besides the patches and does not hand on: the class token."""
    encoder_layers: int
    """Encoder layers that run."""
    encoder_heads: int
    encoder_width: int
    text_tokens: int
    layers: int
    """Layers of the LLM."""
    heads: int
    kv_heads: int
    width: int
    head_dim: int
    element_byte: int
    """Bytes of a cached number that is not quantised."""
    output_tokens: int

    @property
    def symbols(self) -> dict[str, int]:
        """The symbols that no technique changes."""
        return {
            "B": 1,
            "N_t": self.text_tokens,
            "L": self.layers,
            "L_v": self.encoder_layers,
            "H": self.heads,
            "G": self.kv_heads,
            "d": self.head_dim,
            "D": self.width,
            "D_v": self.encoder_width,
            "P": self.element_byte,
        }


@dataclass(frozen=True)
class Member:
    """A technique of a stack at a setting."""

    parameters: Mapping[str, Any]
    """The value of each."""
    effects: tuple[tuple[int, Effect], ...]
    """Each with its place in the pipeline."""
    overheads: tuple[Overhead, ...] = ()


def places(atlas: Atlas, technique: Technique) -> tuple[int, ...]:
    """Where in the pipeline each effect of a technique happens."""
    return tuple(effect_place(atlas, technique, effect) for effect in technique.effects)


def member(technique: Technique, at: tuple[int, ...], setting: Mapping[str, Any]) -> Member:
    """A technique at a setting; what that leaves out has its default."""
    defaults = {name: parameter.default for name, parameter in technique.parameters.items()}
    return Member(defaults | dict(setting), tuple(zip(at, technique.effects, strict=True)), technique.overheads)
