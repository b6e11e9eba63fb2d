"""What a technique does to the state of a request, in a closed vocabulary of quantities.

Effects apply in pipeline order. In an amount, a symbol stands for the state that the effects before it
left: `N_v` in a change of `vision-tokens` is the count it finds.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lvlm_atlas.schema.expression import Amount
from lvlm_atlas.schema.record import Id, Record, Ref, Source, Text

CHANGES = ("set", "scale", "cap", "remove")
BOUNDS = ("at_least", "at_most")
Modality = Literal["all", "vision", "text"]
"""Which entries of the cache are meant."""
Order = Literal["kept", "new"]
"""`kept`: what is left stays in reading order. `new`: it is sorted, merged or appended otherwise."""


class Typical(Record):
    """A value that somebody saw, where data decide. Estimates take it unless told another; a run may see others."""

    value: Amount
    """The value, between the bounds."""
    setting: Text
    """Where it was seen: model, data, parameters."""
    source: Source
    """Who reports it, or the numbers it is computed from."""


class Change(Record):
    """Base of the effects that change one count: one exact change, or bounds where data decide."""

    quantity: str
    """What is changed."""
    set: Amount | None = None
    """The new value."""
    scale: Amount | None = None
    """The new value as a share of the old one."""
    cap: Amount | None = None
    """The new value is the smaller of this and the old one."""
    remove: Amount | None = None
    """How much is taken off (per layer, in a schedule)."""
    at_least: Amount | None = None
    """Lower bound of the new value, where the input decides."""
    at_most: Amount | None = None
    """Upper bound of the new value, where the input decides."""
    typical: Typical | None = None
    """A value between the bounds for estimates, with its source; without one they take the bound that saves least."""
    at: Annotated[Id, Ref("position")] | None = None
    """Which position of `acts_at` decides it; absent means the last that is not past the quantity's own."""
    rounding: Literal["nearest", "down", "up"] = "nearest"
    """How a scaled count becomes whole; `nearest` rounds halves to even."""
    note: Text | None = None
    """What the reader should know about it."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        self._check_one_change()
        return self

    def _check_one_change(self) -> None:
        given = [key for key in CHANGES if getattr(self, key) is not None]
        bounds = [key for key in BOUNDS if getattr(self, key) is not None]
        if len(given) > 1 or bool(given) == bool(bounds):
            raise ValueError(
                f"says {', '.join(given + bounds) or 'no change'}; give exactly one of "
                f"{', '.join(CHANGES)}, or bounds ({', '.join(BOUNDS)})"
            )
        if self.typical and given:
            raise ValueError(f"says exactly what it does (`{given[0]}`), so there is no `typical` value; drop it")


class Schedule(Change):
    """Base of the changes that hold from one layer on."""

    from_layer: Amount = 0
    """The first layer that sees the new value."""
    to_layer: Amount | None = None
    """The first layer that no longer changes it; absent means to the end."""


class Frames(Change):
    """Frames that enter the encoder."""

    quantity: Literal["frames"]
    order: Order = "kept"
    """Whether the frames that are left stay in their order."""


class Pixels(Change):
    """Pixels of a frame that enter the encoder, for frames of each size on their own; sides become whole tokens."""

    quantity: Literal["pixels"]
    frames: Amount | None = None
    """How many of the F frames it holds for, where frames are resized to several sizes; none of them is one that an
    earlier such effect of the entry holds for. Absent means all for which none does."""


class EncoderFlop(Change):
    """FLOPs of the encoder's layers for the whole visual input, where an encoder is replaced or reuses features."""

    quantity: Literal["encoder.flop"]


class EncoderDensity(Schedule):
    """Share of the encoder's score matrix that each of its layers computes, from 0 to 1."""

    quantity: Literal["encoder.density"]


class EncoderTokens(Schedule):
    """Patches that leave each encoder layer; the layer's own attention still runs on those that entered."""

    quantity: Literal["encoder.tokens"]


class AdapterFlop(Change):
    """FLOPs of the adapter for the whole visual input, where an adapter is replaced."""

    quantity: Literal["adapter.flop"]


class VisionTokens(Change):
    """Vision tokens that enter the LLM."""

    quantity: Literal["vision-tokens"]


class TextTokens(Change):
    """Text tokens of the first prompt that enter the LLM; further questions are read whole."""

    quantity: Literal["text-tokens"]


class LlmVisionTokens(Schedule):
    """Vision tokens alive in each LLM layer. With `to_layer` they sit a few layers out and return."""

    quantity: Literal["llm.vision-tokens"]
    order: Order = "kept"
    """Whether the tokens that are left stay in reading order."""


class LlmVisionQueries(Schedule):
    """Vision tokens that are queries of a layer's attention; the others are read as keys and values all the same."""

    quantity: Literal["llm.vision-queries"]
    order: Order = "kept"
    """Whether all tokens stay in reading order, those that are no queries among them."""


class LlmVisionMlp(Schedule):
    """Vision tokens that pass through the MLP of each LLM layer; the others go round it."""

    quantity: Literal["llm.vision-mlp"]


class LlmWeights(Change):
    """Share of the LLM's weights that is left."""

    quantity: Literal["llm.weights"]


class AttentionDensity(Schedule):
    """Share of the causal score matrix that prefill computes, from 0 to 1."""

    quantity: Literal["attention.density"]


class KvTokens(Schedule):
    """Entries that the cache of a layer holds per key-value head once the prompt is in, and while it grows."""

    quantity: Literal["kv.tokens"]
    of: Modality = "all"
    """Which entries are counted."""
    limit: Amount | None = None
    """The most entries that a layer holds after any step of decoding; absent means that each new token adds one."""
    limit_at_least: Amount | None = None
    """The least that this can be, where data decide which new tokens are held; absent means that it is as given."""
    per_head: bool = False
    """Whether heads hold different numbers; the count is then their mean."""
    order: Order = "kept"
    """Whether the entries that are left stay in reading order."""

    @property
    def grows_only(self) -> bool:
        """Whether it bounds the cache while it grows and leaves the prompt's entries as they are."""
        limited = self.limit is not None or self.limit_at_least is not None
        return limited and all(getattr(self, key) is None for key in (*CHANGES, *BOUNDS))

    def _check_one_change(self) -> None:
        if not self.grows_only:
            super()._check_one_change()


class KvLayers(Change):
    """Layers that hold keys and values of their own; the others read those of another layer."""

    quantity: Literal["kv.layers"]


class KvState(Record):
    """Layers whose attention keeps a state of constant size in place of a cache, and holds no entries."""

    quantity: Literal["kv.state"]
    elements: Amount
    """Numbers in the state of a key-value head."""
    from_layer: Amount = 0
    """The first such layer."""
    to_layer: Amount | None = None
    """The first layer after them; absent means to the end."""
    note: Text | None = None
    """What the reader should know about it."""


class KvBits(Record):
    """Bits of a cached number, with what a quantised group adds. Later ones of a technique refine earlier ones.

    In its amounts `N` is the number of entries that are stored so: of both modalities, or of one where the other is
    stored in another way.
    """

    quantity: Literal["kv.bits"]
    of: Modality = "all"
    """Which entries are stored so."""
    from_layer: Amount = 0
    """The first layer that stores them so."""
    to_layer: Amount | None = None
    """The first layer that no longer does; absent means to the end."""
    key: Amount
    """Bits of an element of K."""
    value: Amount
    """Bits of an element of V."""
    group_size: Amount | None = None
    """Numbers that share one scale and one zero point; absent means that nothing is stored beside the codes."""
    group_overhead_bit: Amount | None = None
    """Bits a group adds: its scale and zero point."""
    full_precision_keys: Amount = 0
    """The most recent keys that stay as they are, at a cache of N entries."""
    full_precision_values: Amount = 0
    """The most recent values that stay as they are."""
    note: Text | None = None
    """What the reader should know about it."""

    @model_validator(mode="after")
    def _says_all_of_groups(self) -> Self:
        if (self.group_size is None) != (self.group_overhead_bit is None):
            raise ValueError("gives one of `group_size` and `group_overhead_bit`; give both or neither")
        return self


class KvResident(Change):
    """Share of the cache that stays on the device."""

    quantity: Literal["kv.resident"]
    fetch: Amount = 0
    """Share of the cache fetched from the host at each step; at most, where data decide."""
    fetch_at_least: Amount | None = None
    """The least that it can be, where data decide; absent means that it is always as given."""


class KvRead(Schedule):
    """Share of a layer's cached entries that a decoding step reads; further questions read all."""

    quantity: Literal["kv.read"]


class LlmDepth(Change):
    """LLM layers that a decoding step runs, on average over the steps; prompts and questions run all."""

    quantity: Literal["llm.depth"]


class Speculation(Record):
    """A draft proposes, the target verifies."""

    quantity: Literal["speculation"]
    draft_length: Amount
    """Tokens on the longest drafted path of a round; at most, where data decide."""
    draft_length_at_least: Amount | None = None
    """The least that it can be, where data decide; absent means that it is always as given."""
    draft_nodes: Amount
    """Tokens the target verifies in one forward, at most; the draft length unless a tree is drafted."""
    draft_nodes_at_least: Amount | None = None
    """The least that it can be, where data decide; absent means that it is always as given."""
    draft_passes: Amount
    """Forward passes of the draft model in a round; at most, where data decide."""
    draft_passes_at_least: Amount | None = None
    """The least that it can be, where data decide; absent means that it is always as given."""
    accepted_at_least: Amount = 0
    """Drafted tokens accepted in a round, at least."""
    accepted_at_most: Amount
    """Drafted tokens accepted in a round, at most; one token of the target's own comes on top."""
    accepted: Typical | None = None
    """Drafted tokens accepted in a round on average, for estimates; without it they take the least."""
    draft_cost: Typical | None = None
    """Time of a draft pass in decoding steps of the target, for estimates; without it a pass costs a whole step."""
    draft_vision_tokens: Amount
    """Vision tokens in the draft's own cache, at `N_v` in the target's; at most, where data decide."""
    draft_vision_tokens_at_least: Amount | None = None
    """The least that it can be, where data decide; absent means that it is always as given."""
    exact: Literal["distribution", "greedy", "no"]
    """What of the output equals the target's own: its distribution, its greedy tokens, or neither."""
    note: Text | None = None
    """What the reader should know about it."""


class OutputTokens(Change):
    """Tokens generated."""

    quantity: Literal["output-tokens"]


Effect = Annotated[
    Frames
    | Pixels
    | EncoderFlop
    | EncoderDensity
    | EncoderTokens
    | AdapterFlop
    | VisionTokens
    | TextTokens
    | LlmVisionTokens
    | LlmVisionQueries
    | LlmVisionMlp
    | LlmWeights
    | AttentionDensity
    | KvTokens
    | KvLayers
    | KvState
    | KvBits
    | KvResident
    | KvRead
    | Speculation
    | LlmDepth
    | OutputTokens,
    Field(discriminator="quantity"),
]
"""One effect, told apart by its `quantity`."""


class Overhead(Record):
    """What a technique adds at a stage. At least one of its costs is given."""

    stage: Annotated[Id, Ref("stage")]
    """The stage that pays."""
    flop: Amount | None = None
    """Floating-point operations added for a request, in the symbols' terms; in decoding, at each step. They cover
    `attention_rows`, if both are given."""
    byte: Amount | None = None
    """Bytes of memory traffic added, for a request; in decoding, at each step."""
    memory_byte: Amount | None = None
    """Bytes of device memory occupied on top."""
    attention_rows: Amount | None = None
    """Query rows of softmax attention that must be formed and kept, per head. In the LLM they are the last rows of a
    layer, each as long as the causal mask leaves it. Without `from_layer` they are the longest of all layers together,
    a part of a row standing for one that fewer tokens make shorter; with it, so many of each layer from there on. In
    decoding, so many for each new token, as long as the cache, in each layer."""
    from_layer: Amount | None = None
    """The first layer whose rows are formed."""
    to_layer: Amount | None = None
    """The first layer after those; absent means to the end."""
    heads: Amount | None = None
    """Heads of a layer whose rows are formed; absent means all."""
    sequential_steps: Amount | None = None
    """Steps that must follow one another, such as picks of one token after another: each starts kernels of its own. For
    a request; in decoding, at each step."""
    host_syncs: Amount | None = None
    """Times that the host waits for the device before it can go on."""
    serialises_batch: bool = False
    """Whether requests of a batch are handled one after the other, so that their steps add up."""
    upper_bound: bool = False
    """Whether these amounts are the most that it can be, where the input decides."""
    why: Text
    """What the cost is."""

    @model_validator(mode="after")
    def _costs_something(self) -> Self:
        if all(getattr(self, cost) is None for cost in COSTS):
            raise ValueError(f"names no cost; give {', '.join(f'`{cost}`' for cost in COSTS)}")
        rows = [key for key in ("from_layer", "to_layer", "heads") if getattr(self, key) is not None]
        if rows and self.attention_rows is None:
            raise ValueError(f"gives `{rows[0]}` but no `attention_rows`; give both or neither")
        if self.to_layer is not None and self.from_layer is None:
            raise ValueError("gives `to_layer` but no `from_layer`; give both")
        return self


COSTS = ("flop", "byte", "memory_byte", "attention_rows", "sequential_steps", "host_syncs")
"""The costs that an overhead can name."""
