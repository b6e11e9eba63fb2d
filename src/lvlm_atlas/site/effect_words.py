"""Effects in words at the default parameters, for readers who do not want formulas: `2 bits, in groups of 32`."""

from __future__ import annotations

from collections.abc import Mapping

from lvlm_atlas.schema import wording
from lvlm_atlas.schema.effect import Effect, KvBits
from lvlm_atlas.schema.expression import Amount, evaluate, names_in
from lvlm_atlas.schema.technique import Parameter

_BYTE_16_BIT = 2.0
_ENTRIES = range(4096, 4096 + 1024)
"""Lengths of a cache over which a number that depends on the length is looked at."""


def in_words(effect: Effect, parameters: Mapping[str, Parameter]) -> str | None:
    """An effect at the default parameters and 16-bit elements; None if only the request settles it."""
    words = _bits(effect, parameters) if isinstance(effect, KvBits) else _shown(wording.change(effect), parameters)
    where = _shown(wording.layers(effect), parameters)
    if words is None or where is None:
        return None
    return f"{words} {where}".strip()


def _shown(words: wording.Words, parameters: Mapping[str, Parameter]) -> str | None:
    parts = [_worth(part.amount, parameters) if isinstance(part, wording.Value) else part for part in words]
    return None if None in parts else "".join(part for part in parts if part)


def _bits(effect: KvBits, parameters: Mapping[str, Parameter]) -> str | None:
    key, value = (_worth(amount, parameters) for amount in (effect.key, effect.value))
    if key is None or value is None:
        return None
    said = [f"{key} bits" if key == value else f"keys in {key} bits, values in {value}"]
    if effect.of != "all":
        said[0] += f" for {effect.of} entries"
    group = _worth(effect.group_size, parameters) if effect.group_size is not None else None
    if group:
        said.append(f"in groups of {group}")
    exact = ((effect.full_precision_keys, "keys"), (effect.full_precision_values, "values"))
    kept = [(_worth(amount, parameters), what) for amount, what in exact if amount != 0]
    if kept and all(count for count, _ in kept):
        said.append(f"the newest {' and '.join(f'{count} {what}' for count, what in kept)} exact")
    return ", ".join(said)


def _worth(amount: Amount, parameters: Mapping[str, Parameter]) -> str | None:
    """An amount at the defaults; a range where it depends on how long the cache is; None if more decides it."""
    if not isinstance(amount, str):
        return wording.written(amount)
    known = {name: parameters[name].default for name in parameters} | {"P": _BYTE_16_BIT}
    free = names_in(amount) - set(known)
    if free - {"N"}:
        return None
    try:
        values = {evaluate(amount, {**known, "N": float(entries)}) for entries in (_ENTRIES if free else (4096,))}
    except ValueError:
        return None
    least, most = wording.written(min(values)), wording.written(max(values))
    return least if least == most else f"{least} to {most}"
