"""The extension points: where techniques act, what they are given there, and what they return.

`frames → pixels → encoder (encoder-attention → encoder-layer) → encoder-output → adapter → adapter-output →
llm-input → llm-layer → attention → cache-tokens → cache-layers → cache-bits → cache-step → decode-loop → stop`

A technique is an immutable setting. It declares the positions at which it acts; for each run `begin` returns the
object whose methods are called there, and which may hold state of that run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.drafting.rounds import Drafter
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Entries, Held, Patches, Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.prompt import Prompt
from lvlm_atlas.reference.ops.blocks import Blocks


@dataclass(frozen=True)
class Frames:
    """At `frames`, before the encoder. Returns the indices (K,) of the frames to keep, ascending."""

    request: Request
    """The request with the frames that are left here."""


@dataclass(frozen=True)
class Pixels:
    """At `pixels`, before the patch embedding. Returns the frames at the resolution to encode.

    A tower of one size, LLaVA's, resizes them back to it: detail is gone, but there are as many patches as before.
    """

    frames_F3HW: Tensor


@dataclass(frozen=True)
class Encoder:
    """At `encoder`, in its place. Returns the patches of each frame, or of each temporal patch, for the adapter.

    Where a model lacks `free-patches`, they keep the number, the order and the `grid` that its own encoder gives.
    """

    frames_F3HW: Tensor
    encoder: Callable[[Tensor], Patches]
    """The model's own, with whatever acts inside its layers; it may run on some of the frames, or more than once."""


@dataclass(frozen=True)
class EncoderAttention:
    """At `encoder-attention`, in place of the attention of each encoder layer. Returns its output (F, H, N, d)."""

    layer: int
    layers: int
    """Encoder layers that run."""
    patches: Patches
    """What enters the layer."""
    query_FHNd: Tensor
    """Queries, rotated where the encoder has rotary positions."""
    key_FHNd: Tensor
    value_FHNd: Tensor
    attend: Callable[[], Tensor]
    """The layer's own attention of these."""


@dataclass(frozen=True)
class EncoderLayer:
    """At `encoder-layer`, between attention and MLP. Returns the patches for this MLP and all that follows."""

    layer: int
    layers: int
    """Encoder layers that run."""
    patches: Patches


@dataclass(frozen=True)
class EncoderOutput:
    """At `encoder-output`, between encoder and adapter. Returns the patches for the adapter."""

    patches: Patches


@dataclass(frozen=True)
class Adapter:
    """At `adapter`, in its place. Returns vision tokens (F', N', D) of the decoder's width.

    F' below F where it merges frames; on a model with `free-patches` alone.
    """

    hidden_FND: Tensor
    """What the model's own adapter would get."""
    patches: Patches
    adapter: Callable[[Tensor], Tensor]
    """The model's own adapter."""


@dataclass(frozen=True)
class AdapterOutput:
    """At `adapter-output`, between adapter and prompt. Returns the vision tokens that the prompt holds.

    Here frames can keep different numbers of tokens on every model: behind a merger, and before positions are given.
    Called for each clip: all frames of a video, the images of one size, all tiles.
    """

    tokens: VisionTokens


@dataclass(frozen=True)
class LlmInput:
    """At `llm-input`, before the first decoder layer. Returns the prompt that prefill reads."""

    sequence: Sequence


@dataclass(frozen=True)
class LlmLayer:
    """At `llm-layer`, before each decoder layer in prefill. Returns the tokens for this layer and all that follow."""

    layer: int
    layers: int
    sequence: Sequence
    """Its `attention` is that of the layer before; None before layer 0."""
    cached: int = 0
    """Entries a head that the layer holds already, of what was read before these tokens."""


@dataclass(frozen=True)
class Attention:
    """At `attention`, in each decoder layer of prefill. Returns the blocks to attend to; None: all, causally."""

    layer: int
    layers: int
    sequence: Sequence
    query_BHNd: Tensor
    """Queries, rotated."""
    key_BGNd: Tensor
    """Keys, rotated."""
    value_BGNd: Tensor
    cached: int = 0
    """Entries a head that the layer holds already; every token attends to them."""


@dataclass(frozen=True)
class CacheTokens:
    """At `cache-tokens`, in prefill, after each layer's attention. Returns the entries that the layer caches."""

    layer: int
    layers: int
    entries: Entries
    """Of the tokens read now, without those that the layer holds already."""
    probe: Probe
    """The layer's attention, a column a token read now; `rows(earlier=True)` has those of the cache before them."""
    cached: int = 0
    """Entries a head that the layer holds already."""


@dataclass(frozen=True)
class CacheBits:
    """At `cache-bits`, in the first prefill, once a layer. Returns an empty store, which is then given the entries."""

    layer: int
    layers: int
    entries: Entries


@dataclass(frozen=True)
class CacheLayers:
    """At `cache-layers`, in prefill, after the last layer. Returns the entries that each layer caches."""

    entries: tuple[Entries, ...]
    """Of each layer, what `CacheTokens` has."""
    probes: tuple[Probe, ...]
    cached: tuple[int, ...]
    """Entries a head that each layer holds already."""


@dataclass(frozen=True)
class CacheStep:
    """At `cache-step`, in each layer whenever tokens settle there: a prompt, a chunk of one, a round of decoding.

    Returns True (B, G, S) at the entries that stay; None: all. Drafted tokens that are rejected are never seen here.
    """

    layer: int
    layers: int
    held: Held
    """Which tokens the layer's entries are, those that settle now last."""
    new: int
    """Entries a head that settle now."""
    rows: Callable[[slice], Tensor]
    """Softmax rows (B, H, R, S), float32, of the tokens that settle now, those of a slice of them, over the entries."""
    read: Callable[[], tuple[Tensor, Tensor]]
    """Keys and values (B, G, S, d), padding among them."""
    prompt: bool
    """Whether they are of a prompt, and not decoded."""


@dataclass(frozen=True)
class DecodeLoop:
    """At `decode-loop`, after prefill. Returns a drafter, its own prefill done."""

    run: Run
    prefill: Prefill
    """Its `attention` holds every layer's if the technique needs `attention-row` or `attention-map`."""


@dataclass(frozen=True)
class Stop:
    """At `stop`, after each token. Returns whether the answer ends here."""

    tokens: list[int]
    logits_NC: Tensor


@dataclass(frozen=True)
class Point:
    """An extension point."""

    method: str
    """What is called there."""
    context: type
    """What it is given, its only argument."""
    returns: Any
    """The type of what it returns."""
    exclusive: bool = False
    """Whether one technique at most can act there."""
    withholds: tuple[str, ...] = ()
    """Needs that nobody else can meet once a technique acts there."""


POINTS: Mapping[str, Point] = {
    "frames": Point("select_frames", Frames, Tensor),
    "pixels": Point("resize", Pixels, Tensor),
    "encoder": Point(
        "encode",
        Encoder,
        Patches,
        exclusive=True,
        withholds=("encoder-attention", "encoder-keys", "cls-token", "attention-bias"),
    ),
    "encoder-attention": Point(
        "attend_patches", EncoderAttention, Tensor, exclusive=True, withholds=("encoder-attention", "attention-bias")
    ),
    "encoder-layer": Point("encoder_layer", EncoderLayer, Patches),
    "encoder-output": Point("encoder_output", EncoderOutput, Patches),
    "adapter": Point("adapt", Adapter, Tensor, exclusive=True),
    "adapter-output": Point("adapter_output", AdapterOutput, VisionTokens),
    "llm-input": Point("llm_input", LlmInput, Sequence),
    "llm-layer": Point("llm_layer", LlmLayer, Sequence),
    "attention": Point("choose_blocks", Attention, Blocks | None, exclusive=True, withholds=("attention-map",)),
    "cache-tokens": Point("compress_cache", CacheTokens, Entries),
    "cache-layers": Point("compress_caches", CacheLayers, tuple[Entries, ...]),
    "cache-bits": Point("new_store", CacheBits, Store, exclusive=True),
    "cache-step": Point("evict", CacheStep, Tensor | None),
    "decode-loop": Point("begin_decoding", DecodeLoop, Drafter, exclusive=True),
    "stop": Point("stop", Stop, bool),
}
"""Extension points by the taxonomy's position id, in pipeline order. Tools read this table from the source."""


class Technique:
    """Base of every technique: a frozen dataclass whose fields are the parameters of its entry."""

    acts_at: ClassVar[tuple[str, ...]] = ()
    """Positions at which it acts, keys of `POINTS`, as in its entry."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What it must be given, as in its entry."""

    def begin(self, run: Run) -> Any:  # noqa: ARG002 - for those that override it
        """What acts in this run: an object with the method of each point. Itself, unless it holds state."""
        return self


@dataclass(frozen=True)
class Acts:
    """What acts in a run."""

    by_position: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    retain_attention: bool = False
    """Whether prefill keeps every layer's attention for the decoding loop."""

    def at(self, position: str) -> tuple[Any, ...]:
        """What acts at a position, in the order of the stack."""
        return self.by_position.get(position, ())

    def owner(self, position: str) -> Any | None:
        """What acts at an exclusive position, if anything does."""
        return next(iter(self.at(position)), None)


@dataclass
class Run:
    """What a technique may know of the run that it begins."""

    config: Config
    """Shapes of the model."""
    request: Request
    """As it was asked; nothing is dropped yet. In a session (`LVLM.stream`) that of the round, as are `trace`,
    `prompt` and `question_ND`: read them from the run when they are needed."""
    trace: Trace
    """What is counted; a draft notes its passes here."""
    target: Target
    """The model that answers."""
    techniques: Seq[Technique]
    """The whole stack, in order."""
    prompt: Prompt | None = None
    """The assembled prompt with modality and spans; None until the vision tokens are there."""
    acts: Acts = field(default_factory=Acts, repr=False)
    round: int = 0
    """Which round of a session is read, from 0."""

    @property
    def question_ND(self) -> Tensor:  # noqa: N802 - names carry shapes
        """Embeddings (N_t, D) of the request's text."""
        return self.target.embed(self.request.text_N)
