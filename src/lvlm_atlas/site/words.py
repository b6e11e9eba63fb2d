"""What an entry declares, in words: effects as formulas, overheads, parameters, counted runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from lvlm_atlas.schema.effect import Change, Effect, KvBits, KvTokens, Overhead, Schedule, Speculation
from lvlm_atlas.schema.expression import evaluate, names_in
from lvlm_atlas.schema.measurement import Counts
from lvlm_atlas.schema.technique import Parameter, Setting
from lvlm_atlas.site.markup import code, listed, plain

Amount = float | str
_Shown = Callable[[Amount], Markup]


@dataclass(frozen=True)
class Formula:
    """An effect, ready to be shown."""

    quantity: str
    """Id of the quantity."""
    change: Markup
    """What becomes of it."""
    where: Markup
    """From and to which layer."""
    note: str | None


def formula(effect: Effect, parameters: Mapping[str, Parameter]) -> Formula:
    """An effect as a formula, with its value at the default parameters where these settle it."""

    def amount(value: Amount) -> Markup:
        shown = code(number(value))
        default = at_default(value, parameters)
        return shown if default is None else shown + Markup(" (") + plain(default) + Markup(" at default)")

    where = Markup("")
    if isinstance(effect, KvBits):
        group = amount(effect.group_size) + Markup(", each plus ") + amount(effect.group_overhead_bit)
        change = Markup("K in ") + amount(effect.key) + Markup(", V in ") + amount(effect.value)
        change += Markup(" bit, in groups of ") + group + Markup(" bit")
        kept = [(effect.full_precision_keys, "keys"), (effect.full_precision_values, "values")]
        if newest := [Markup("the newest ") + amount(n) + plain(f" {what}") for n, what in kept if n != 0]:
            change += Markup("; unquantised: ") + listed(newest)
    elif isinstance(effect, Speculation):
        change = listed([
            Markup("drafts ") + amount(effect.draft_length) + Markup(" tokens in ")
            + amount(effect.draft_passes) + Markup(" passes"),
            Markup("verifies ") + amount(effect.draft_nodes) + Markup(" at once"),
            Markup("accepts ") + amount(effect.accepted_at_least) + Markup(" to ") + amount(effect.accepted_at_most),
            Markup("draft sees ") + amount(effect.draft_vision_tokens) + Markup(" vision tokens"),
            plain({"distribution": "output distribution unchanged", "greedy": "greedy output unchanged",
                   "no": "output may change"}[effect.exact]),
        ])  # fmt: skip
    else:
        change = _change(effect, amount)
        if isinstance(effect, KvTokens) and effect.of != "all":
            change += plain(f" (of {effect.of} entries)")
        if isinstance(effect, Schedule) and (effect.from_layer != 0 or effect.to_layer is not None):
            where = Markup("from layer ") + amount(effect.from_layer)
            where += Markup(" to before layer ") + amount(effect.to_layer) if effect.to_layer is not None else ""
    return Formula(effect.quantity, change, where, effect.note)


def _change(effect: Change, amount: _Shown) -> Markup:
    if effect.set is not None:
        return Markup("= ") + amount(effect.set)
    if effect.scale is not None:
        return Markup("× ") + amount(effect.scale)
    if effect.cap is not None:
        return Markup("at most ") + amount(effect.cap)
    if effect.remove is not None:
        return Markup("− ") + amount(effect.remove) + plain(" a layer" if isinstance(effect, Schedule) else "")
    bounds = [(effect.at_least, "at least "), (effect.at_most, "at most ")]
    shown = [plain(words) + amount(value) for value, words in bounds if value is not None]
    return listed(shown) + Markup(": the input decides")


def overhead(cost: Overhead) -> Markup:
    """A declared cost as formulas."""
    units = [(cost.flop, "FLOP"), (cost.byte, "bytes"), (cost.attention_rows, "attention rows a head")]
    costs = listed(code(number(value)) + plain(f" {unit}") for value, unit in units if value is not None)
    return plain("at most ") + costs if cost.upper_bound else costs


def number(value: Amount) -> str:
    """A number as short as it can be, or the expression as it stands, with signs readers know."""
    if isinstance(value, str):
        return value.replace("**", "^").replace("*", "·").replace(" - ", " − ")
    return f"{value:g}" if abs(value) < 1e6 or value != int(value) else f"{value:,.0f}"


def at_default(value: Amount, parameters: Mapping[str, Parameter]) -> str | None:
    """The value of an expression at the default parameters; None if it needs more, or is a number already."""
    if not isinstance(value, str) or not names_in(value) or not names_in(value) <= set(parameters):
        return None
    try:
        return number(evaluate(value, {name: parameters[name].default for name in parameters}))
    except ValueError:
        return None


def legal(parameter: Parameter) -> Markup:
    """The values a parameter may take."""
    if parameter.choices:
        return listed((code(_setting(choice)) for choice in parameter.choices), " or ")
    interval = (parameter.range or "").replace("inf", "∞")
    return code(interval).replace(" ", Markup("&#160;")) if interval else plain("true or false")


def setting(values: Mapping[str, Setting]) -> Markup:
    """A setting as `name=value`, or that it is the default one."""
    return listed(code(f"{name}={_setting(value)}") for name, value in values.items()) or plain("defaults")


def counted(counts: Counts, baseline: Counts | None) -> list[tuple[str, str, str, str]]:
    """What a run counted beside the run without the technique: name, counted, without, share."""
    rows = []
    for name, key in _COUNTS:
        one = _total(counts, key)
        if baseline is None:
            rows.append((name, f"{one:,}", "", ""))
            continue
        other = _total(baseline, key)
        rows.append((name, f"{one:,}", f"{other:,}", f"{100 * one / other:.3g} %" if other else ""))
    return rows


_COUNTS = (
    ("Encoder tokens, over layers", "encoder_tokens"),
    ("LLM tokens, over layers", "llm_tokens"),
    ("Attention scores in prefill", "score_entries"),
    ("Cache entries, over layers", "kv_entries"),
    ("Cache bytes", "kv_byte"),
    ("Target passes in decoding", "target_passes"),
    ("Output tokens", "output_tokens"),
)


def _total(counts: Counts, key: str) -> int:
    value = getattr(counts, key)
    return sum(value) if isinstance(value, tuple) else int(value)


def _setting(value: Setting) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
