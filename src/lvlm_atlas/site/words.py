"""What an entry declares, in words: effects as formulas, overheads, parameters, counted runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from lvlm_atlas.schema import wording
from lvlm_atlas.schema.effect import Effect, Overhead
from lvlm_atlas.schema.expression import Amount, evaluate, names_in
from lvlm_atlas.schema.measurement import Counts
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.technique import Parameter
from lvlm_atlas.site.markup import code, listed, plain


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
        shown = code(wording.written(value))
        default = at_default(value, parameters)
        return shown if default is None else shown + Markup(" (") + plain(default) + Markup(" at default)")

    return Formula(
        effect.quantity, _marked(wording.change(effect), amount), _marked(wording.layers(effect), amount), effect.note
    )


def overhead(cost: Overhead) -> Markup:
    """A declared cost as wording."""
    return _marked(wording.cost(cost), lambda value: code(wording.written(value)))


def _marked(words: wording.Words, amount: Callable[[Amount], Markup]) -> Markup:
    return Markup().join(amount(part.amount) if isinstance(part, wording.Value) else plain(part) for part in words)


def at_default(value: Amount, parameters: Mapping[str, Parameter]) -> str | None:
    """The value of an expression at the default parameters; None if it needs more, or is a number already."""
    if not isinstance(value, str) or not names_in(value) or not names_in(value) <= set(parameters):
        return None
    try:
        return wording.written(evaluate(value, {name: parameters[name].default for name in parameters}))
    except ValueError:
        return None


def within_a_sentence(name: str) -> str:
    """A name in small letters, but for abbreviations: `States of the LLM` becomes `states of the LLM`."""
    return " ".join(word if sum(map(str.isupper, word)) > 1 else word.lower() for word in name.split())


def legal(parameter: Parameter) -> Markup:
    """The values a parameter may take."""
    if parameter.choices:
        return listed((code(wording.setting(choice)) for choice in parameter.choices), " or ")
    interval = (parameter.range or "").replace("inf", "∞")
    return code(interval).replace(" ", Markup("&#160;")) if interval else plain("true or false")


def setting(values: Mapping[str, Setting]) -> Markup:
    """A setting as `name=value`, or that it is the default one."""
    return listed(code(f"{name}={wording.setting(value)}") for name, value in values.items()) or plain("defaults")


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
