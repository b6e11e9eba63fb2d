"""What a technique does to the state of a request, in a closed vocabulary of quantities.

Effects apply in pipeline order. In an amount, a symbol stands for the state that the effects before it
left: `N_v` in a change of `vision-tokens` is the count it finds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lvlm_atlas.schema.expression import Amount
from lvlm_atlas.schema.record import Id, Record, Ref, Source, Text

CHANGES = ("set", "scale", "cap", "remove")


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
    rounding: Literal["nearest", "down", "up"] = "nearest"
    """How a scaled count becomes whole; `nearest` rounds halves to even."""
    note: Text | None = None
    """What the reader should know about it."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Change:
        given = [key for key in CHANGES if getattr(self, key) is not None]
        bounds = [key for key in ("at_least", "at_most") if getattr(self, key) is not None]
        if len(given) > 1 or bool(given) == bool(bounds):
            raise ValueError(
                f"says {', '.join(given + bounds) or 'no change'}; give exactly one of "
                f"{', '.join(CHANGES)}, or bounds (at_least, at_most)"
            )
        if self.typical and given:
            raise ValueError(f"says exactly what it does (`{given[0]}`), so there is no `typical` value; drop it")
        return self


class Schedule(Change):
    """Base of the changes that hold from one layer on."""

    from_layer: Amount = 0
    """The first layer that sees the new value."""
    to_layer: Amount | None = None
    """The first layer that no longer changes it; absent means to the end."""


class Frames(Change):
    """Frames that enter the encoder."""

    quantity: Literal["frames"]


class Pixels(Change):
    """Pixels of a frame that enter the encoder."""

    quantity: Literal["pixels"]


class EncoderTokens(Schedule):
    """Patches that leave each encoder layer; the layer's own attention still runs on those that entered."""

    quantity: Literal["encoder.tokens"]


class VisionTokens(Change):
    """Vision tokens that enter the LLM."""

    quantity: Literal["vision-tokens"]


class LlmVisionTokens(Schedule):
    """Vision tokens alive in each LLM layer."""

    quantity: Literal["llm.vision-tokens"]


class AttentionDensity(Schedule):
    """Share of the causal score matrix that prefill computes, from 0 to 1."""

    quantity: Literal["attention.density"]


class KvTokens(Schedule):
    """Entries that the cache of a layer holds per key-value head once the prompt is in."""

    quantity: Literal["kv.tokens"]
    of: Literal["all", "vision", "text"] = "all"
    """Which entries are counted."""


class KvBits(Record):
    """Bits of a cached number, with what a quantised group adds."""

    quantity: Literal["kv.bits"]
    key: Amount
    """Bits of an element of K."""
    value: Amount
    """Bits of an element of V."""
    group_size: Amount
    """Numbers that share one scale and one zero point."""
    group_overhead_bit: Amount
    """Bits a group adds: its scale and zero point."""
    full_precision_keys: Amount = 0
    """The most recent keys that stay as they are, at a cache of N entries."""
    full_precision_values: Amount = 0
    """The most recent values that stay as they are."""
    note: Text | None = None
    """What the reader should know about it."""


class KvResident(Change):
    """Share of the cache that stays on the device."""

    quantity: Literal["kv.resident"]
    fetch: Amount = 0
    """Share of the cache fetched at each step."""


class Speculation(Record):
    """A draft proposes, the target verifies."""

    quantity: Literal["speculation"]
    draft_length: Amount
    """Tokens on the longest drafted path of a round."""
    draft_nodes: Amount
    """Tokens the target verifies in one forward; the draft length unless a tree is drafted."""
    draft_passes: Amount
    """Forward passes of the draft model in a round."""
    accepted_at_least: Amount = 0
    """Drafted tokens accepted in a round, at least."""
    accepted_at_most: Amount
    """Drafted tokens accepted in a round, at most; one token of the target's own comes on top."""
    accepted: Typical | None = None
    """Drafted tokens accepted in a round on average, for estimates; without it they take the least."""
    draft_cost: Typical | None = None
    """Time of a draft pass in decoding steps of the target, for estimates; without it a pass costs a whole step."""
    draft_vision_tokens: Amount
    """Vision tokens in the draft's own cache, at `N_v` in the target's."""
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
    | EncoderTokens
    | VisionTokens
    | LlmVisionTokens
    | AttentionDensity
    | KvTokens
    | KvBits
    | KvResident
    | Speculation
    | OutputTokens,
    Field(discriminator="quantity"),
]
"""One effect, told apart by its `quantity`."""


class Overhead(Record):
    """What a technique adds at a stage. At least one of its four costs is given."""

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
    """Query rows of softmax attention that must be formed and kept, per head, over all layers. In the LLM they are
    the last rows of a layer, each as long as the causal mask leaves it."""
    upper_bound: bool = False
    """Whether these amounts are the most that it can be, where the input decides."""
    why: Text
    """What the cost is."""

    @model_validator(mode="after")
    def _costs_something(self) -> Overhead:
        if all(cost is None for cost in (self.flop, self.byte, self.memory_byte, self.attention_rows)):
            raise ValueError("names no cost; give `flop`, `byte`, `memory_byte` or `attention_rows`")
        return self
