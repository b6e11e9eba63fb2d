"""Curves of the lab as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.roofline.units import share
from lvlm_atlas.specs.answers import elsewhere, kept, tasks_of

COLUMNS = ("technique", "setting", "cost", "kept", "questions")
"""What a table shows of a setting."""


def curve_rows(kb: KnowledgeBase, ids: Sequence[str], tasks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each setting of each curve, the main cost falling.

    Args:
        kb: the techniques.
        ids: which of them; none means all that have a curve.
        tasks: tasks to take the mean of; none means all that each serves.

    Raises:
        AtlasError: an id or a task is unknown, or a technique that is named has no curve.
    """
    curves = kb.atlas.curves
    chosen = [kb.technique(id_).id for id_ in ids] or [*curves]
    if missing := [id_ for id_ in chosen if id_ not in curves]:
        raise AtlasError(f"{', '.join(missing)}: no curve yet; `lvlm-atlas lab run {missing[0]}` makes one")
    known = dict.fromkeys(task for curve in curves.values() for task in tasks_of(curve))
    for task in tasks:
        if task not in known:
            raise AtlasError(f"no task {task!r} in any curve; {suggestion(task, known, known)}")
    for id_ in chosen:
        curve = curves[id_]
        for each in kept(curve, tasks or None):
            setting = ", ".join(f"{name}={value}" for name, value in each.setting.items()) or "defaults"
            yield {
                "id": f"{id_} {setting}", "technique": id_, "setting": setting,
                "cost": f"{share(each.cost[curve.main_cost])} of {curve.main_cost}",
                "kept": f"{share(each.share)} ± {share(each.margin)}{', untuned' * curve.untuned}",
                "questions": each.questions,
                "share": each.share, "margin": each.margin, "costs": each.cost, "tasks": list(each.tasks),
                "untuned": curve.untuned, "hard": each.hard, "hard_right": each.hard_right, "models": each.models,
                "parameters": each.setting,
                "elsewhere": {name: other.share for name, other in elsewhere(curve, each, tasks or None).items()},
            }  # fmt: skip
