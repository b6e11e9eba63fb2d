"""The extension points: where techniques act, what they are given there, and what they return.

`answer → frames → pixels → encoder (encoder-attention → encoder-layer) → encoder-output → adapter → adapter-output →
llm-input → prefill-chunks → llm-layer → attention → cache-tokens → cache-layers → cache-bits → cache-step →
cache-read → decode-loop → stop`

A technique is an immutable setting. It declares the positions at which it acts; for each run `begin` returns the
object whose methods are called there, and which may hold state of that run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor

from lvlm_atlas.reference.caches.cache import Choose
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.request import Request, Result
from lvlm_atlas.reference.flow.states import Entries, Held, Patches, Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.prompt import Prompt
from lvlm_atlas.reference.ops.blocks import Blocks, Pairs, Replacement
from lvlm_atlas.reference.ops.window import Window


@dataclass(frozen=True)
class Answer:
    """At `answer`, above the run. Returns the answer to the request, after as many runs as it takes."""

    run: Run
    """The run of the request as it was asked; what acts in it takes no part, for every question begins anew."""
    ask: Callable[[Request], Result]
    """Runs a request once with the stack, and counts it."""


@dataclass(frozen=True)
class Frames:
    """At `frames`, before the encoder. Returns the indices (K,) of the frames to keep, ascending."""

    request: Request
    """The request with the frames that are left here."""
    index_F: Tensor | None = None
    """Which frames of the request these are, as it was asked; None: all of them."""


@dataclass(frozen=True)
class Pixels:
    """At `pixels`, before the patch embedding. Returns the frames at the resolution to encode; a tuple of (3, H, W)
    where they get different ones, which frames of a video cannot have on models of dynamic resolution.

    A tower of one size, LLaVA's, resizes them back to it: detail is gone, but there are as many patches as before.
    Called for each run of neighbours of one size.
    """

    frames_F3HW: Tensor
    index_F: Tensor | None = None
    """Which frames of the request these are, as it was asked; None: all of them."""


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
    """At `encoder-layer`, between attention and MLP. Returns the patches for this MLP and all that follows.

    `patches.ahead()` is the attention of a later layer: of one that is about to run, once this MLP has.
    `patches.entered_FND` is what entered this one.
    """

    layer: int
    layers: int
    """Encoder layers that run."""
    patches: Patches


@dataclass(frozen=True)
class EncoderOutput:
    """At `encoder-output`, between encoder and adapter. Returns the patches for the adapter.

    `patches.ahead()` is the attention of a layer that the model leaves out, LLaVA's last one.
    """

    patches: Patches


@dataclass(frozen=True)
class Adapter:
    """At `adapter`, in its place. Returns vision tokens (F', N', D) of the decoder's width.

    On a model with `free-patches` alone F' may be below F, where it merges frames or leaves out the view of the whole
    of each tiled image; and a tuple of (N', D) may be returned, where frames or views get different numbers.
    """

    hidden_FND: Tensor
    """What the model's own adapter would get."""
    patches: Patches
    adapter: Callable[[Tensor], Tensor]
    """The model's own adapter."""
    views: tuple[int, ...] = ()
    """Of tiled images, how many of the frames are views of each: of the whole first, then its tiles. Empty: none is
    tiled."""


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
class PrefillChunks:
    """At `prefill-chunks`, before prefill. Returns the lengths (C,) of the chunks in which it is read, in order.

    Each chunk attends to itself and to what it reads of the cache, which holds those before it.
    """

    sequence: Sequence
    """What follows the cache: a prompt, or a round of a session."""


@dataclass(frozen=True)
class LlmLayer:
    """At `llm-layer`, before each decoder layer in prefill. Returns the tokens for this layer and all that follow."""

    layer: int
    layers: int
    sequence: Sequence
    """Its `attention` is that of the layer before; None before layer 0."""
    cached: int = 0
    """Entries a head that the layer holds already, of what was read before these tokens."""
    look: Callable[[Sequence], Probe] | None = None
    """See `ahead`."""

    def ahead(self, sequence: Sequence | None = None) -> Probe:
        """The attention that the layer about to run would have on the tokens here.

        It projects every token to queries and keys: 2 · N · D · (H + G) · d FLOPs, which are an overhead to declare,
        though the layer itself takes them over if its tokens are the very same.

        Args:
            sequence: other tokens than those of this context, such as the kept ones.
        """
        if self.look is None:
            raise ValueError("this context was made without a layer to look ahead to; give it one as `look`")
        return self.look(self.sequence if sequence is None else sequence)


@dataclass(frozen=True)
class Attention:
    """At `attention`, in each decoder layer of prefill. Returns the blocks, pairs or window to attend to, or what takes
    the place of softmax attention; None: all.
    """

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
    probe: Probe | None = None
    """The layer's attention, dense, of which rows can be read; each is an overhead to declare."""


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
    """At `cache-bits`, in the first prefill, once a layer. Returns an empty store, which is then given the entries.

    Keys are rotated unless a technique of the stack needs `unrotated-keys`; so are those of `CacheTokens`.
    """

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
    """Keys and values (B, G, S, d) as the cache holds them, padding among them."""
    prompt: bool
    """Whether they are of a prompt, and not decoded."""
    entered: Mapping[int, Tensor] = field(default_factory=dict)
    """Of decoded tokens that settle now, by place in the text, the state (B, D) that entered the layer."""
    earlier: int = 0
    """Entries a head that the layer held before these tokens, whatever policies before this one let go since."""


@dataclass(frozen=True)
class CacheRead:
    """At `cache-read`, before a layer's attention in each pass that reads its cache. Returns which settled entries are
    read: places (B, G, R), ascending; None: all. Unsettled ones are always read.
    """

    layer: int
    layers: int
    store: Store
    """The layer's entries. To read keys from it is counted as any other read."""
    settled: int
    """Entries that are settled: the first ones of the store."""
    query_BHMd: Tensor
    """Queries of the new tokens, rotated unless a technique of the stack needs `unrotated-keys`."""
    sequence: Sequence | None
    """The new tokens of a prompt, or of a chunk of one; None: they are decoded."""
    held: Callable[[], Held]
    """Which tokens the settled entries are."""
    on_read: Callable[[int], None]
    """Told how many score entries a technique computes here; see `Probe`."""


@dataclass(frozen=True)
class DecodeLoop:
    """At `decode-loop`, after prefill. Returns a drafter, its own prefill done, and the rule of acceptance."""

    run: Run
    prefill: Prefill
    """Its `attention` holds every layer's if the technique needs `attention-row` or `attention-map`, its `states` what
    entered every layer if it needs `layer-states`."""


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
    "answer": Point("answer", Answer, Result, exclusive=True),
    "frames": Point("select_frames", Frames, Tensor),
    "pixels": Point("resize", Pixels, Tensor | tuple[Tensor, ...]),
    "encoder": Point(
        "encode",
        Encoder,
        Patches,
        exclusive=True,
        withholds=(
            "encoder-attention",
            "encoder-keys",
            "encoder-states",
            "cls-token",
            "attention-bias",
            "full-encoder-attention",
        ),
    ),
    "encoder-attention": Point(
        "attend_patches", EncoderAttention, Tensor, exclusive=True, withholds=("encoder-attention", "attention-bias")
    ),
    "encoder-layer": Point("encoder_layer", EncoderLayer, Patches),
    "encoder-output": Point("encoder_output", EncoderOutput, Patches),
    "adapter": Point("adapt", Adapter, Tensor | tuple[Tensor, ...], exclusive=True),
    "adapter-output": Point("adapter_output", AdapterOutput, VisionTokens),
    "llm-input": Point("llm_input", LlmInput, Sequence),
    "prefill-chunks": Point(
        "split_prompt", PrefillChunks, Tensor, exclusive=True, withholds=("attention-map", "attention-row")
    ),
    "llm-layer": Point("llm_layer", LlmLayer, Sequence),
    "attention": Point(
        "choose_blocks",
        Attention,
        Blocks | Pairs | Window | Replacement | None,
        exclusive=True,
        withholds=("attention-map",),
    ),
    "cache-tokens": Point("compress_cache", CacheTokens, Entries),
    "cache-layers": Point("compress_caches", CacheLayers, tuple[Entries, ...]),
    "cache-bits": Point("new_store", CacheBits, Store, exclusive=True),
    "cache-step": Point("evict", CacheStep, Tensor | None),
    "cache-read": Point("choose_entries", CacheRead, Tensor | None, exclusive=True),
    "decode-loop": Point("begin_decoding", DecodeLoop, Speculation, exclusive=True),
    "stop": Point("stop", Stop, bool),
}
"""Extension points by the taxonomy's position id, in pipeline order. Tools read this table from the source."""


class Technique:
    """Base of every technique: a frozen dataclass whose fields are the parameters of its entry."""

    acts_at: ClassVar[tuple[str, ...]] = ()
    """Positions at which it acts, keys of `POINTS`, as in its entry."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What it must be given, as in its entry."""
    withholds: ClassVar[tuple[str, ...]] = ()
    """Needs that others behind it can no longer be given, as in its entry."""
    only_looks_at: ClassVar[tuple[str, ...]] = ()
    """Those of `acts_at` at which it returns what it is given."""
    admits: ClassVar[bool] = False
    """Whether at `cache-step` it says which new tokens are cached at all; it then comes before those that evict."""

    def calibrate(self, lvlm: Target, samples: Seq[Request]) -> Self:  # noqa: ARG002 - for those that override it
        """The technique with what it fits to a model beforehand, in its field `calibration`.

        Those that need `calibration-samples` bring it, and cannot run before.

        Args:
            lvlm: the model that it is to run on.
            samples: requests like those that it will be asked.

        Raises:
            TypeError: the technique fits nothing.
        """
        raise TypeError(f"{type(self).__name__} fits nothing to a model beforehand; run it as it is")

    def begin(self, run: Run) -> Any:  # noqa: ARG002 - for those that override it
        """What acts in this run: an object with the method of each point. Itself, unless it holds state."""
        return self


@dataclass(frozen=True)
class Acts:
    """What acts in a run."""

    by_position: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    retain_attention: bool = False
    """Whether prefill keeps every layer's attention for the decoding loop."""
    retain_states: bool = False
    """Whether it keeps what entered every layer."""
    places_lost: bool = False
    """Whether the tokens of the adapter stand on no grid."""
    unrotated: bool = False
    """Whether the cache holds keys as they are before rotary, and rotates them by their places in it."""

    def at(self, position: str) -> tuple[Any, ...]:
        """What acts at a position, in the order of the stack."""
        return self.by_position.get(position, ())

    def owner(self, position: str) -> Any | None:
        """What acts at an exclusive position, if anything does."""
        return next(iter(self.at(position)), None)

    def choose_entries(self, layers: int) -> Choose | None:
        """What says which settled entries a pass reads, for a model of so many layers; None: it reads all."""
        reader = self.owner("cache-read")
        if reader is None:
            return None
        return lambda layer, *context: reader.choose_entries(CacheRead(layer, layers, *context))


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

    def score(self, request: Request, techniques: Seq[Technique] = ()) -> Prefill:
        """What the target's prefill makes of a request of its own, such as one frame and a question about it.

        For techniques that ask the model itself which frames or tokens matter. `logits_C` of what is returned are those
        of the next token, `outputs` the last hidden states, and `Target.step` goes on from its `cache`. Its trace is
        added to `trace.scoring`; encoder and prefill of it are overheads to declare.

        Raises:
            StackError: the techniques cannot run together.
            Refusal: one declines this model or request.
            ValueError: the request's prompt does not fit its frames or the model.
        """
        run: Run = self.target.begin(request, techniques)
        self.trace.scoring.append(run.trace)
        return self.target.prefill(self.target.prepare(run), run)

    @property
    def question_ND(self) -> Tensor:  # noqa: N802 - names carry shapes
        """Embeddings (N_t, D) of the request's text."""
        return self.target.embed(self.request.text_N)
