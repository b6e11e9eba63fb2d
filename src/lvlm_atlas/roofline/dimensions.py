"""The sizes that effects refer to: those of a model and of a request, whoever runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from lvlm_atlas.roofline.host import file_s
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.state import Limits
from lvlm_atlas.roofline.vision import visual
from lvlm_atlas.roofline.visual import Steps, Visual
from lvlm_atlas.roofline.workload import Workload

VISUALS = 256
"""Visual inputs of a request that are remembered: stacks ask for the same few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """A model with a request, before any technique."""

    visual: Callable[[float, tuple[Steps, ...] | None], Visual]
    """The visual input at a share of its frames, each resized to so many pixels, if it is; see `vision.visual`."""
    text_tokens: int
    """Text tokens of the prompt."""
    output_tokens: int
    """Tokens asked for."""
    batch: int = 1
    """Requests processed together."""
    file_s: float = 0.0
    """Seconds in which the host decodes the files of a request, at the rates given."""
    encoder_layers: int
    """Encoder layers that run."""
    encoder_heads: int
    """Attention heads of the encoder."""
    encoder_hidden: int
    """Width of its hidden states."""
    layers: int
    """Layers of the LLM."""
    cross_layers: frozenset[int] = frozenset()
    """Those that attend to the vision tokens instead of to the sequence."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key-value heads."""
    head_dim: int
    """Width of a head."""
    hidden: int
    """Width of the LLM's hidden states."""
    element_byte: float
    """Bytes of a cached number that is not quantised."""
    held: tuple[tuple[float, float], ...] = ()
    """Vision and text entries a head that each layer holds of earlier rounds; empty: there are none."""
    limits: tuple[Limits, ...] = ()
    """The most that each layer may hold since the first round; empty: nothing says it yet."""

    @property
    def symbols(self) -> dict[str, float]:
        """What the symbols stand for that depend on no pixel."""
        return {
            "B": self.batch, "N_t": self.text_tokens, "N_o": self.output_tokens, "L": self.layers,
            "L_v": self.encoder_layers, "H": self.heads, "H_v": self.encoder_heads, "G": self.kv_heads,
            "d": self.head_dim, "D": self.hidden, "D_v": self.encoder_hidden, "P": self.element_byte,
        }  # fmt: skip


def dimensions(layout: Layout, workload: Workload) -> Dimensions:
    """The dimensions of a request to a model on its devices."""
    model = layout.model
    return Dimensions(
        visual=lru_cache(VISUALS)(partial(visual, model, workload)),
        text_tokens=workload.text_tokens, output_tokens=workload.output_tokens,
        batch=workload.batch, file_s=file_s(layout.host, workload),
        encoder_layers=layout.encoder_layers, encoder_heads=model.encoder.heads, encoder_hidden=model.encoder.hidden,
        layers=model.llm.layers, cross_layers=model.llm.cross_layers, heads=model.llm.heads,
        kv_heads=model.llm.kv_heads, head_dim=model.llm.head_dim, hidden=model.llm.hidden,
        element_byte=layout.kv_byte,
    )  # fmt: skip
