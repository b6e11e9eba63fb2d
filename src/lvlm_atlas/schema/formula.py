"""Effects and overheads as a reader's formulas: `llm.vision-tokens × keep_ratio, from layer 2`."""

from __future__ import annotations

from lvlm_atlas.schema.effect import Change, Effect, KvBits, KvResident, KvTokens, Overhead, Schedule, Speculation


def effect_formula(effect: Effect) -> str:
    """One effect in a line."""
    if isinstance(effect, KvBits):
        return (
            f"K in {effect.key} bits, V in {effect.value} bits, + {effect.group_overhead_bit} bits per "
            f"{effect.group_size} numbers; in full precision: {effect.full_precision_keys} keys, "
            f"{effect.full_precision_values} values"
        )
    if isinstance(effect, Speculation):
        return (
            f"{effect.draft_length} tokens drafted in {effect.draft_passes} passes, {effect.draft_nodes} verified at "
            f"once; accepted: {effect.accepted_at_least} to {effect.accepted_at_most}; draft sees "
            f"{effect.draft_vision_tokens} vision tokens; {_exactness(effect.exact)}"
        )
    return _change(effect)


def overhead_formula(overhead: Overhead) -> str:
    """One overhead in a line."""
    parts = (
        (overhead.flop, "FLOP"),
        (overhead.byte, "byte"),
        (overhead.attention_rows, "rows of softmax attention a head"),
    )
    return " + ".join(f"{amount} {unit}" for amount, unit in parts if amount is not None)


def _change(effect: Change) -> str:
    of = f" ({effect.of})" if isinstance(effect, KvTokens) and effect.of != "all" else ""
    name = f"{effect.quantity}{of}"  # type: ignore[attr-defined]  # every member of the union has one
    rounded = {"nearest": "", "down": ", rounded down", "up": ", rounded up"}[effect.rounding]
    if effect.set is not None:
        text = f"{name} = {effect.set}"
    elif effect.scale is not None:
        text = f"{name} × {_bracketed(effect.scale)}{rounded}"
    elif effect.cap is not None:
        text = f"{name} ≤ {effect.cap}, whatever it was"
    elif effect.remove is not None:
        text = f"{name} − {_bracketed(effect.remove)}" + (" in each layer" if isinstance(effect, Schedule) else "")
    else:
        low = f"{effect.at_least} ≤ " if effect.at_least is not None else ""
        high = f" ≤ {effect.at_most}" if effect.at_most is not None else ""
        text = f"{low}{name}{high}, as the input decides"
    if isinstance(effect, Schedule):
        if effect.from_layer != 0:
            text += f", from layer {effect.from_layer}"
        if effect.to_layer is not None:
            text += f", before layer {effect.to_layer}"
    if isinstance(effect, KvResident) and effect.fetch != 0:
        text += f", {effect.fetch} fetched a step"
    return text


def _bracketed(amount: float | str) -> str:
    plain = not isinstance(amount, str) or amount.replace("_", "").isalnum()
    return str(amount) if plain else f"({amount})"


def _exactness(exact: str) -> str:
    return {
        "distribution": "the output's distribution is the target's",
        "greedy": "greedy output is the target's",
        "no": "the output may differ from the target's",
    }[exact]
