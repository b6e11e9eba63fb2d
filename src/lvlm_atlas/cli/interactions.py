"""Prints what two techniques buy together, against what each buys alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from lvlm_atlas.cli.json_text import as_json
from lvlm_atlas.cli.options import Report
from lvlm_atlas.cli.plain import csv_text, table, wrapped
from lvlm_atlas.planner.pair import Pair
from lvlm_atlas.planner.shortage import misfit
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.roofline.summary import subject
from lvlm_atlas.rows import markdown

KINDS = {
    "synergy": "Together they buy more than the product of both.",
    "diminishing": "Together they buy less than the product of both.",
    "shift": "Their gains multiply, and the bottleneck moves.",
    "independent": "Their gains multiply.",
}


def print_pair(pair: Pair, report: Report, *, root: Path) -> None:
    """Print a pair, as JSON with the digest of the catalog that it rests on."""
    one, two = pair.names
    columns = ("", one, two, "both", "product", "both / product")
    if report is Report.json:
        from lvlm_atlas.atlas.edition import digest

        text = as_json({**pair.to_dict(), "data": digest(root)})
    elif report is Report.csv:
        text = _csv(pair)
    elif report is Report.md:
        why = f"{KINDS[pair.kind]} {_sentence(pair)}"
        text = "\n\n".join([f"**{_title(pair)}**", markdown(columns, _rows(pair)), why, *_said(pair)])
    else:
        shown = (f"A: {one}", f"B: {two}")
        columns = ("", "A", "B", "both", "A × B", "both / (A × B)")
        parts = [wrapped(_title(pair)), "\n".join(shown), table(columns, list(_rows(pair)), left=("",))]
        parts += [wrapped(f"{KINDS[pair.kind]} {_sentence(pair)}")]
        parts += ["\n".join(wrapped(line, "- ") for line in _said(pair))]
        text = "\n\n".join(parts)
    sys.stdout.write(text + "\n")


def _title(pair: Pair) -> str:
    return f"{subject(pair.neither)}: times better than without, predicted"


def _rows(pair: Pair) -> Iterator[tuple[str, ...]]:
    for each in (*(pair.gain(stage) for stage in STAGES), *pair.gains):
        numbers = (each.first, each.second, each.joint, each.expected)
        yield each.figure, *(f"{number:.2f} ×" for number in numbers), f"{each.ratio:.2f}"


def _sentence(pair: Pair) -> str:
    return f"{pair.why[0].upper()}{pair.why[1:]}."


def _said(pair: Pair) -> list[str]:
    own = [text for each in pair.joint.stack for text in each.assumptions]
    general = "Predicted, not measured; for the engine's own assumptions see `lvlm-atlas estimate`."
    short = [shortage for each in (pair.neither, pair.joint) if (shortage := misfit(each))]
    return [*dict.fromkeys(short), general, *own]


def _csv(pair: Pair) -> str:
    rows = pair.to_dict()["gains"]
    return csv_text(rows)
