"""The extension points, in pipeline order. A technique has the methods of the points it acts at.

`select_frames → resize → encoder_layer → encoder_output → adapt → llm_input → llm_layer → attend →
compress_cache → new_store → begin_decoding → stop`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from lvlm_atlas.reference.lvlm.attention import Probe
from lvlm_atlas.reference.lvlm.cache import Store
from lvlm_atlas.reference.lvlm.request import Request
from lvlm_atlas.reference.lvlm.states import Entries, Patches, Sequence
from lvlm_atlas.reference.lvlm.trace import Trace
from lvlm_atlas.reference.refusal import Refusal, StackError

if TYPE_CHECKING:
    from lvlm_atlas.reference.lvlm.decoding import Drafter
    from lvlm_atlas.reference.lvlm.model import LVLM, Prefill

Point = TypeVar("Point")


@runtime_checkable
class SelectFrames(Protocol):
    """`frames`: chooses what enters the encoder."""

    def select_frames(self, request: Request) -> Tensor:
        """Indices (K,) of the frames to keep, ascending."""


@runtime_checkable
class Resize(Protocol):
    """`pixels`: changes the resolution of the frames."""

    def resize(self, frames_F3HW: Tensor) -> Tensor:
        """Frames at the resolution to encode."""


@runtime_checkable
class EncoderLayer(Protocol):
    """`encoder-layer`: between attention and MLP of each encoder layer."""

    def encoder_layer(self, layer: int, layers: int, patches: Patches) -> Patches:
        """Patches for the MLP of `layer` and all that follows; `layers` is how many run."""


@runtime_checkable
class EncoderOutput(Protocol):
    """`encoder-output`: between encoder and adapter."""

    def encoder_output(self, patches: Patches) -> Patches:
        """Patches for the adapter."""


@runtime_checkable
class Adapt(Protocol):
    """`adapter`, exclusive: replaces the adapter."""

    def adapt(self, lvlm: LVLM, hidden_FND: Tensor) -> Tensor:
        """Vision tokens (F, N', D) of the decoder's width."""


@runtime_checkable
class LlmInput(Protocol):
    """`llm-input`: the assembled prompt, before the first decoder layer."""

    def llm_input(self, sequence: Sequence) -> Sequence:
        """The prompt that prefill sees."""


@runtime_checkable
class LlmLayer(Protocol):
    """`llm-layer`: before each decoder layer, in prefill."""

    def llm_layer(self, layer: int, layers: int, sequence: Sequence) -> Sequence:
        """Tokens for `layer` and all that follow; `sequence.attention` is that of the layer before."""


@runtime_checkable
class Attend(Protocol):
    """`attention`, exclusive: computes the attention of prefill."""

    def attend(self, layer: int, query_BHNd: Tensor, key_BGNd: Tensor, value_BGNd: Tensor) -> tuple[Tensor, int]:
        """Output (B, H, N, d) and how many score entries were computed, over all heads."""


@runtime_checkable
class CompressCache(Protocol):
    """`cache-tokens`: after each layer's attention in prefill, before its entries are cached."""

    def compress_cache(self, layer: int, layers: int, entries: Entries, attention: Probe) -> Entries:
        """What the layer caches."""


@runtime_checkable
class NewStore(Protocol):
    """`cache-bits`, exclusive: how entries are held."""

    def new_store(self, layer: int) -> Store:
        """An empty store for `layer`."""


@runtime_checkable
class BeginDecoding(Protocol):
    """`decode-loop`, exclusive: drafts tokens, and verifies them against the target."""

    retain_attention: ClassVar[bool]
    """Whether prefill must keep every layer's attention for it."""

    def begin_decoding(self, target: LVLM, request: Request, prefill: Prefill, stack: Stack, trace: Trace) -> Drafter:
        """A drafter for this request, its own prefill done; it notes in `trace` what its draft model does."""


@runtime_checkable
class Stop(Protocol):
    """`stop`: ends the answer early."""

    def stop(self, tokens: list[int], logits_NC: Tensor) -> bool:
        """Whether to end after these tokens."""


POINTS: Mapping[str, type] = {
    "frames": SelectFrames,
    "pixels": Resize,
    "encoder-layer": EncoderLayer,
    "encoder-output": EncoderOutput,
    "adapter": Adapt,
    "llm-input": LlmInput,
    "llm-layer": LlmLayer,
    "attention": Attend,
    "cache-tokens": CompressCache,
    "cache-bits": NewStore,
    "decode-loop": BeginDecoding,
    "stop": Stop,
}
"""Extension point by the taxonomy's position id, in pipeline order."""

EXCLUSIVE = ("adapter", "attention", "cache-bits", "decode-loop")
"""Points that one technique at most can own."""


def points_of(technique: object) -> tuple[str, ...]:
    """The positions a technique acts at, in pipeline order."""
    return tuple(position for position, point in POINTS.items() if isinstance(technique, point))


@dataclass(frozen=True)
class Stack:
    """Techniques that run together; at one point they apply in the order given.

    Raises:
        TypeError: an object acts at no extension point.
        StackError: two own one exclusive point; one reads the whole
            attention map of the decoder and another brings a kernel that never forms it. A technique says the
            former with a true `needs_attention_map`.
    """

    techniques: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for technique in self.techniques:
            if isinstance(technique, type) or not points_of(technique):
                raise TypeError(f"{technique!r} acts at no extension point ({', '.join(POINTS)})")
        for position in EXCLUSIVE:
            owners: list[object] = list(self.at(POINTS[position]))
            if len(owners) > 1:
                raise StackError(
                    f"{_name(owners[0])} and {_name(owners[1])} both own {position!r}, which one technique at "
                    f"most can own; drop one of them"
                )
        kernels = list(self.at(Attend))
        readers = [t for t in self.techniques if getattr(t, "needs_attention_map", False)]
        if kernels and readers:
            raise StackError(
                f"{_name(readers[0])} reads the whole attention map of each layer, which the kernel of "
                f"{_name(kernels[0])} never forms; drop one of them"
            )

    def at(self, point: type[Point]) -> Iterator[Point]:
        """The techniques that act at a point, in order."""
        return (technique for technique in self.techniques if isinstance(technique, point))

    def owner(self, point: type[Point]) -> Point | None:
        """The technique that owns an exclusive point, if any."""
        return next(self.at(point), None)


def needs_whole_grid(before: Patches, after: Patches, technique: object) -> Patches:
    """`after`, if no merger follows that joins neighbours of a grid or all patches are still there.

    Raises:
        Refusal: patches are gone that the merger needs.
    """
    if before.grid is None or (after.grid == before.grid and after.hidden_FND.shape == before.hidden_FND.shape):
        return after
    raise Refusal(
        f"{_name(technique)} leaves {after.hidden_FND.shape[1]} of {before.hidden_FND.shape[1]} patches, but this "
        f"model's merger joins neighbours of the whole {before.grid[0]} × {before.grid[1]} grid; leave it out on "
        f"this model"
    )


def _name(technique: object) -> str:
    return type(technique).__name__
