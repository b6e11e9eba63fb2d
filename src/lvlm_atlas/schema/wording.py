"""Effects and overheads as a reader's formulas: `× keep_ratio from layer 2`. Terminal and site show the same words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lvlm_atlas.schema.effect import (
    Change,
    Effect,
    KvBits,
    KvResident,
    KvState,
    KvTokens,
    Overhead,
    Pixels,
    Schedule,
    Speculation,
)
from lvlm_atlas.schema.expression import Amount
from lvlm_atlas.schema.record import Setting

EXACT = {
    "distribution": "output distribution unchanged",
    "greedy": "greedy output unchanged",
    "no": "output may change",
}
"""What speculation leaves of the target's output, in words."""


@dataclass(frozen=True)
class Value:
    """An amount inside a formula; whoever shows the formula decides how it looks."""

    amount: Amount


Words = tuple[str | Value, ...]
"""A formula: words and amounts, in order."""


def change(effect: Effect) -> Words:
    """What becomes of the effect's quantity."""
    if isinstance(effect, KvBits):
        return (*_bits(effect), *_of(effect.of))
    if isinstance(effect, KvState):
        return ("a state of ", Value(effect.elements), " numbers a head in place of a cache")
    if isinstance(effect, Speculation):
        return _speculation(effect)
    if isinstance(effect, KvTokens):
        return _cached(effect)
    more: Words = ()
    if isinstance(effect, KvResident) and effect.fetch != 0:
        more = ("; ", *_up_to(effect.fetch_at_least, effect.fetch), " fetched a step")
    if isinstance(effect, Pixels) and effect.frames is not None:
        more = (" in ", Value(effect.frames), " frames")
    return (*_count(effect), *more)


def layers(effect: Effect) -> Words:
    """From and up to which layer; nothing if it holds in all, or the quantity has none."""
    if not isinstance(effect, Schedule | KvBits | KvState):
        return ()
    return _layers(effect.from_layer, effect.to_layer)


def cost(overhead: Overhead) -> Words:
    """What is added."""
    units = (
        (overhead.flop, "FLOP"),
        (overhead.byte, "bytes moved"),
        (overhead.memory_byte, "bytes kept"),
        (overhead.attention_rows, "attention rows a head"),
        (overhead.sequential_steps, "steps one after the other"),
        (overhead.host_syncs, "waits of the host"),
    )
    costs: list[Words] = [(Value(amount), f" {unit}") for amount, unit in units if amount is not None]
    if overhead.from_layer is not None:
        costs.append(("rows ", *(_layers(overhead.from_layer, overhead.to_layer) or ("of each layer",))))
    if overhead.heads is not None:
        costs.append(("rows of ", Value(overhead.heads), " heads"))
    if overhead.serialises_batch:
        costs.append(("one request of a batch after the other",))
    return ("at most " if overhead.upper_bound else "", *_joined(costs, ", "))


def setting(value: Setting) -> str:
    """A value of a parameter as a stack spells it: `true`, `0.5`, `8/16/24`."""
    if isinstance(value, tuple):
        return "/".join(map(setting, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def written(amount: Amount) -> str:
    """A number as short as it can be, or the expression as it stands, with signs that readers know."""
    if isinstance(amount, str):
        return amount.replace("**", "^").replace("*", "·").replace(" - ", " − ")
    return f"{amount:g}" if abs(amount) < 1e6 or amount != int(amount) else f"{amount:,.0f}"


def as_text(words: Words) -> str:
    """The formula as plain text; an expression of several words stands between marks."""
    shown = (written(part.amount) if isinstance(part, Value) else part for part in words)
    marked = (
        f"`{text}`" if isinstance(part, Value) and " " in text else text
        for part, text in zip(words, shown, strict=True)
    )
    return "".join(marked)


def _count(effect: Change) -> Words:
    if effect.set is not None:
        return ("= ", Value(effect.set))
    if effect.scale is not None:
        rounded = {"nearest": "", "down": ", rounded down", "up": ", rounded up"}[effect.rounding]
        return ("× ", Value(effect.scale), rounded)
    if effect.cap is not None:
        return ("at most ", Value(effect.cap))
    if effect.remove is not None:
        return ("− ", Value(effect.remove), " a layer" if isinstance(effect, Schedule) else "")
    bounds = [
        (words, Value(amount))
        for words, amount in (("at least ", effect.at_least), ("at most ", effect.at_most))
        if amount is not None
    ]
    return (*_joined(bounds, ", "), ": the input decides")


def _layers(first: Amount, last: Amount | None) -> Words:
    if first == 0 and last is None:
        return ()
    end: Words = (" to before layer ", Value(last)) if last is not None else ()
    return ("from layer ", Value(first), *end)


def _of(modality: str) -> Words:
    return (f" (of {modality} entries)",) if modality != "all" else ()


def _cached(effect: KvTokens) -> Words:
    parts: list[Words] = [] if effect.grows_only else [_count(effect)]
    if effect.limit is not None:
        parts.append(("never more than ", Value(effect.limit), " while decoding"))
    if effect.limit_at_least is not None:
        parts.append(("at least ", Value(effect.limit_at_least), " while decoding: the input decides"))
    if effect.per_head:
        parts.append(("heads differ, their mean",))
    return (*_joined(parts, "; "), *_of(effect.of))


def _bits(effect: KvBits) -> Words:
    kept = ((effect.full_precision_keys, " keys"), (effect.full_precision_values, " values"))
    newest = [("the newest ", Value(amount), what) for amount, what in kept if amount != 0]
    unquantised: Words = ("; unquantised: ", *_joined(newest, ", ")) if newest else ()
    group: Words = ()
    if effect.group_size is not None and effect.group_overhead_bit is not None:
        group = (", in groups of ", Value(effect.group_size), ", each plus ", Value(effect.group_overhead_bit), " bit")
    return ("K in ", Value(effect.key), ", V in ", Value(effect.value), " bit", *group, *unquantised)


def _speculation(effect: Speculation) -> Words:
    return (
        *("drafts ", *_up_to(effect.draft_length_at_least, effect.draft_length), " tokens in "),
        *(*_up_to(effect.draft_passes_at_least, effect.draft_passes), " passes, "),
        *("verifies ", *_up_to(effect.draft_nodes_at_least, effect.draft_nodes), " at once, "),
        *("accepts ", Value(effect.accepted_at_least), " to ", Value(effect.accepted_at_most), ", "),
        *("draft sees ", *_up_to(effect.draft_vision_tokens_at_least, effect.draft_vision_tokens), " vision tokens, "),
        EXACT[effect.exact],
    )


def _up_to(least: Amount | None, most: Amount) -> Words:
    return (Value(most),) if least is None else (Value(least), " to ", Value(most))


def _joined(parts: Sequence[Words], separator: str) -> Words:
    joined: list[str | Value] = []
    for part in parts:
        joined += [separator, *part] if joined else part
    return tuple(joined)
