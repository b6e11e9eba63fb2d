"""What the lab measured of techniques as rows, alone and together, kept apart from what sources report."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.result_words import setting_of
from lvlm_atlas.roofline.units import share
from lvlm_atlas.schema.stack import Departure
from lvlm_atlas.specs.answers import kept

EVIDENCE = "measured on the lab's model"
COLUMNS = ("stack", "left", "kept", "off the sum", "questions")
"""What a table shows of a row."""


def measured_rows(atlas: Atlas, ids: Collection[str]) -> Iterator[dict[str, Any]]:
    """A row for each setting of the curves of some techniques, and for each stack that has one of them.

    Args:
        atlas: the records.
        ids: the techniques.
    """
    for id_, curve in atlas.curves.items():
        for each in kept(curve) if id_ in ids else ():
            yield {
                "id": id_, "evidence": EVIDENCE, "stack": " ".join(filter(None, (id_, setting_of(each.setting)))),
                "left": f"{share(each.cost[curve.main_cost])} of {curve.main_cost}",
                "kept": f"{share(each.share)} ± {share(each.margin)}", "off the sum": "", "questions": each.questions,
                "techniques": [id_], "settings": [each.setting], "share": each.share, "alone": [each.share],
                "costs": each.cost, "departure": None, "interval": None, "verdict": None,
                "checkpoints": [*curve.checkpoints],
            }  # fmt: skip
    for record in atlas.stacks:
        if {*record.split(".")}.isdisjoint(ids):
            continue
        stack = atlas.stacks[record]
        off = stack.departure
        members = [" ".join(filter(None, (one.technique, setting_of(one.setting)))) for one in stack.members]
        yield {
            "id": record, "evidence": EVIDENCE, "stack": " + ".join(members), "left": "", "kept": share(stack.kept),
            "off the sum": f"{points(off)}, {stack.verdict}", "questions": stack.questions,
            "techniques": [*stack.techniques], "settings": [one.setting for one in stack.members],
            "share": stack.kept, "alone": [one.kept for one in stack.members], "costs": None, "departure": off.value,
            "interval": [off.low, off.high], "verdict": stack.verdict, "checkpoints": [*stack.checkpoints],
        }  # fmt: skip


def points(off: Departure) -> str:
    """A departure with its interval, in hundredths of the answers: `+3.1 (0.4 to 6.0)`."""
    return f"{100 * off.value:+.1f} ({100 * off.low:+.1f} to {100 * off.high:+.1f})"
