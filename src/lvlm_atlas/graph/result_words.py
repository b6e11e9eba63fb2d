"""Reported numbers in words, for the terminal and the pages."""

from __future__ import annotations

from collections.abc import Mapping

from lvlm_atlas.graph.results import ReportedResult
from lvlm_atlas.schema.record import Setting

_QUALIFIERS = {"about": "about ", "up-to": "up to ", "at-least": "at least "}


def value_of(row: ReportedResult) -> str:
    """The number as printed, with its qualifier and unit: `60.4 %`, `up to 2.68 ×`."""
    return _QUALIFIERS.get(row.qualifier or "", "") + _with_unit(row.value, row.unit)


def baseline_of(row: ReportedResult) -> str:
    """The number of the unmodified model; nothing, if the source gives none."""
    return "" if row.baseline is None else _with_unit(row.baseline, row.unit)


def percent_of(row: ReportedResult) -> str:
    """The value in percent of the unmodified model's, to four digits; nothing, if it is not known."""
    return "" if row.percent_of_baseline is None else f"{row.percent_of_baseline:.4g} %"


def kept_of(row: ReportedResult) -> str:
    """How many vision tokens are kept: their number, their share, or both: `64 (11.1 %)`."""
    share = "" if row.share_kept is None else f"{100 * row.share_kept:.3g} %"
    if row.tokens_kept is None:
        return share
    return f"{row.tokens_kept:g}" + (f" ({share})" if share else "")


def setting_of(setting: Mapping[str, Setting]) -> str:
    """A setting as `name=value`, as commands take it."""
    return " ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in setting.items()
    )


def conditions_of(row: ReportedResult) -> str:
    """What the number was measured on, and how, but for the model and the tokens kept."""
    return "; ".join(part for part in (setting_of(row.setting), row.data, row.device) if part)


def kept_phrase(row: ReportedResult) -> str:
    """How many vision tokens are kept, as a phrase; nothing, if the source does not say."""
    kept = kept_of(row)
    return kept and f"{kept} {'of the vision tokens' if row.tokens_kept is None else 'vision tokens'}"


def number_phrase(row: ReportedResult) -> str:
    """What was measured, its value and that of the unmodified model: `ttft 0.155 s (0.203 s without) on A-OKVQA`."""
    without = f" ({baseline_of(row)} without)" if row.baseline is not None else ""
    return f"{row.measure} {value_of(row)}{without}{f' on {row.data}' if row.data else ''}"


def sentence(row: ReportedResult) -> str:
    """The whole result in a line, its source and note left out."""
    how = (row.model, setting_of(row.setting), kept_phrase(row), row.device)
    return f"{number_phrase(row)}: {', '.join(part for part in how if part)}"


def _with_unit(number: float, unit: str) -> str:
    return f"{number:.10g}" + (f" {unit}" if unit not in ("", "1") else "")
