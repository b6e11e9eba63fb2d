"""What techniques are given at each extension point, and what they return: a context a point, in pipeline order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.request import Request, Result
from lvlm_atlas.reference.flow.states import Entries, Held, Patches, Sequence
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.decoder import Layer
from lvlm_atlas.reference.lvlm.technique import Run


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
class Projections:
    """At `projections`, for each decoder layer before its prefill. Returns what projects to queries, keys and values in
    its place, here and in every step of decoding; None: the layer's own.
    """

    layer: int
    layers: int
    own: Layer
    """The layer, with projections of its own."""


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
