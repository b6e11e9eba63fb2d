"""What a technique does to a request, as the engine takes it: changes of the state, and what they cost.

Amounts are numbers or functions of the state: each receives what the symbols (`N_v`, `L`, …) and the technique's
parameters stand for where it applies. No technique is known here by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

Names = Mapping[str, Any]
"""What symbols and parameters stand for: numbers, and tuples of numbers for list parameters."""
Amount = float | Callable[[Names], float]
"""A number, or a function of what the names stand for."""
How = Literal["set", "scale", "cap", "remove"]
"""Whether an amount is the new value, a share of the old, a limit, or what is taken off."""

_WHOLE: Mapping[str, Callable[[float], float]] = {"nearest": round, "down": math.floor, "up": math.ceil}


def value(amount: Amount, names: Names) -> float:
    """The number that an amount comes to."""
    return amount(names) if callable(amount) else amount


def changed(old: float, how: How, amount: float) -> float:
    """A number after a change, not rounded. Never negative where something is taken off."""
    if how == "set":
        return amount
    if how == "scale":
        return old * amount
    return min(old, amount) if how == "cap" else max(0.0, old - amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One count changes, in some layers if the quantity has layers."""

    quantity: str
    """What changes: a quantity of the taxonomy, but for `kv.bits`, `speculation` and `overhead`."""
    order: int
    """Place in the pipeline; earlier places come first."""
    how: How
    """What the amount is."""
    amount: Amount
    rounding: Literal["nearest", "down", "up"] = "nearest"
    """How a scaled count becomes whole."""
    from_layer: Amount = 0
    """The first layer with the new value."""
    to_layer: Amount | None = None
    """The first layer without it; None: to the end."""
    of: Literal["all", "vision", "text"] = "all"
    """Which cache entries are counted."""
    frames: Amount | None = None
    """How many of the frames change (`pixels`), none of them by another such change of the technique; None: all."""
    before_adapter: bool = False
    """Whether tokens change before the adapter, which then has fewer rows to map."""
    fetch: Amount = 0
    """Share of the cache fetched from the host at each step (`kv.resident`)."""
    limit: Amount | None = None
    """The most entries of a layer, a head, while decoding (`kv.tokens`); None: no limit."""
    all_rounds: bool = False
    """Whether it counts all that a layer holds, and not only what the round adds (`kv.tokens`)."""

    def apply(self, old: float, names: Names, *, whole: bool = True) -> float:
        """The new value; a `whole` one is a count, rounded when scaled. Never negative."""
        new = changed(old, self.how, value(self.amount, names))
        return _WHOLE[self.rounding](new) if whole and self.how == "scale" else new


def _settled(amount: Amount, names: Names) -> Amount:
    """A number, or a function of `N` alone: a function may say by its `names` that the entries do not decide."""
    if not callable(amount):
        return amount
    uses: Collection[str] = getattr(amount, "names", names)
    if "N" not in uses:
        return amount(names)
    return partial(_at, amount, {name: names[name] for name in uses if name != "N"})


def _at(amount: Callable[[Names], float], others: Names, here: Names) -> float:
    """An amount where `N` stands for something else than before."""
    return amount({**others, **here})


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBits:
    """Cached numbers are stored in fewer bits."""

    order: int
    of: Literal["all", "vision", "text"] = "all"
    """Which entries."""
    from_layer: Amount = 0
    """The first layer that stores them so."""
    to_layer: Amount | None = None
    """The first layer that no longer does; None: to the end."""
    key: Amount
    """Bits of an element of K."""
    value: Amount
    """Bits of an element of V."""
    group_size: Amount = 1
    """Numbers that share scale and zero point."""
    group_overhead_bit: Amount = 0
    """Bits that a group adds."""
    full_precision_keys: Amount = 0
    """Recent keys that stay as they are, at N entries."""
    full_precision_values: Amount = 0
    """Recent values that stay as they are."""

    def settled(self, names: Names) -> CacheBits:
        """The same with numbers for the layers, and in place of formulas numbers or functions of the entries `N`."""
        return CacheBits(
            order=self.order,
            of=self.of,
            from_layer=value(self.from_layer, names),
            to_layer=math.inf if self.to_layer is None else value(self.to_layer, names),
            key=_settled(self.key, names),
            value=_settled(self.value, names),
            group_size=_settled(self.group_size, names),
            group_overhead_bit=_settled(self.group_overhead_bit, names),
            full_precision_keys=_settled(self.full_precision_keys, names),
            full_precision_values=_settled(self.full_precision_values, names),
        )

    @property
    def amounts(self) -> tuple[Amount, Amount, Amount, Amount, Amount, Amount]:
        """Bits of a key, of a value and of a group, what shares a group, and the keys and values that stay exact."""
        return (
            self.key, self.value, self.group_overhead_bit, self.group_size, self.full_precision_keys,
            self.full_precision_values,
        )  # fmt: skip

    @property
    def uneven(self) -> bool:
        """Whether bytes may rise with the number of entries otherwise than on a line."""
        return any(map(callable, (self.key, self.value, self.full_precision_keys, self.full_precision_values)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """A draft proposes tokens, one pass of the target verifies them."""

    order: int
    draft_nodes: Amount
    """Tokens that the target verifies in one pass."""
    draft_passes: Amount
    """Passes of the draft in a round."""
    accepted: Amount
    """Drafted tokens accepted in a round, on average; the target's own bonus token comes on top."""
    draft_cost: Amount
    """Time of a draft pass, in decoding steps of the target."""
    draft_length: Amount = 0
    """Tokens on the longest drafted path; what the target's time depends on is `draft_nodes`."""
    draft_vision_tokens: Amount = 0
    """Vision tokens in the draft's own cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What a technique adds at a stage, for one request; in decoding, at each step."""

    stage: Literal["encoding", "prefilling", "decoding"]
    flop: Amount | None = None
    """Floating-point operations; None: those of forming `attention_rows`, if any."""
    byte: Amount = 0
    """Memory traffic."""
    attention_rows: Amount = 0
    """Rows of softmax attention formed and kept, per head: over all layers, or with `from_layer` in each of some."""
    from_layer: Amount | None = None
    """The first layer whose rows are formed; None: the rows are those of all layers together."""
    to_layer: Amount | None = None
    """The first layer after those; None: to the end."""
    heads: Amount | None = None
    """Heads whose rows are formed; None: all."""
    memory_byte: Amount = 0
    """Device memory occupied on top."""
    sequential_steps: Amount = 0
    """Steps that follow one another, each with kernels of its own."""
    host_syncs: Amount = 0
    """Times that the host waits for the device."""
    serialises_batch: bool = False
    """Whether each request of a batch takes the steps and waits on its own, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A technique at a setting, ready to be applied."""

    id: str
    """The technique."""
    label: str
    """Technique and setting, as a user writes them."""
    parameters: Names
    """What the parameters stand for."""
    changes: tuple[Change, ...] = ()
    cache_bits: tuple[CacheBits, ...] = ()
    speculation: tuple[Speculation, ...] = ()
    overheads: tuple[Overhead, ...] = ()
    assumptions: tuple[str, ...] = ()
    """What was taken where data decide."""

    @property
    def order(self) -> int:
        """The first place in the pipeline at which it changes something."""
        effects: tuple[Change | CacheBits | Speculation, ...] = (*self.changes, *self.cache_bits, *self.speculation)
        return min((each.order for each in effects), default=0)
