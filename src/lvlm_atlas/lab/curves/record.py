"""Writes the records of curves: a file a technique, in place of an earlier one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lvlm_atlas.atlas.records import CURVES
from lvlm_atlas.files import replace_file
from lvlm_atlas.lab.curves.curve import CurveAnswer
from lvlm_atlas.lab.parts.part import Part
from lvlm_atlas.lab.parts.trainings import TRAININGS
from lvlm_atlas.lab.record import as_yaml, run_fields
from lvlm_atlas.schema.curve import Curve

NO_PARTS: Mapping[str, Mapping[str, Part]] = {}


def missing(
    curve: Curve | None, samples: int, hashes: Mapping[str, str], parts: Mapping[str, Mapping[str, Part]] = NO_PARTS
) -> tuple[str, ...]:
    """The trained models that a curve does not hold on so many samples, with the parts that they have now.

    Those that its technique declined are not asked again, unless they have a layer now that it needed of others.

    Args:
        curve: the curve, if there is one.
        samples: of each task.
        hashes: of the models' weights, by model.
        parts: of the models, by model and kind.
    """
    if curve is None or curve.samples != samples:
        return tuple(hashes)
    by_id = {part.id: part for each in parts.values() for part in each.values()}
    stale = {id_ for id_, hash_ in curve.parts.items() if id_ in by_id and by_id[id_].sha256 != hash_}
    layers = {by_id[id_].kind for id_ in curve.parts if id_ in by_id and TRAININGS[by_id[id_].kind].need}
    declined = {name for name in curve.declined if layers.isdisjoint(parts.get(name, {}))}
    return tuple(
        name for name, hash_ in hashes.items()
        if (curve.checkpoints.get(name) != hash_ and name not in declined)
        or any(part.id in stale for part in parts.get(name, {}).values())
    )  # fmt: skip


def write(
    root: Path,
    answer: CurveAnswer,
    samples: int,
    hashes: Mapping[str, str],
    device: str,
    *,
    earlier: Curve | None = None,
) -> Path:
    """Write the record of a technique under catalog/curves, and return its path.

    Args:
        root: the root.
        answer: what was run.
        samples: of each task.
        hashes: the trained models that the record may hold, and the hashes of their weights.
        device: what it ran on.
        earlier: the same settings on those of these models that were not run; None: all were run.

    Raises:
        AtlasError: it cannot be written.
    """
    declined = {
        name: why for name, why in ((earlier.declined if earlier else {}) | answer.declined).items()
        if name in hashes and name not in answer.checkpoints
    }  # fmt: skip
    if earlier and not answer.checkpoints:
        curve = earlier.model_copy(update={"declined": declined})
    else:
        curve = _joined(answer, earlier, hashes, samples=samples, declined=declined, **run_fields(root, device))
    path = root / CURVES / f"{answer.technique}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, as_yaml(curve, "curve"))
    return path


def _joined(answer: CurveAnswer, earlier: Curve | None, hashes: Mapping[str, str], **about: Any) -> Curve:
    """What was run and what was run earlier, in one record."""
    ran = {*answer.checkpoints, *(earlier.checkpoints if earlier else ())}
    held = {name: hash_ for name, hash_ in hashes.items() if name in ran}
    parts = (earlier.parts if earlier else {}) | answer.parts
    curves = [each for each in (*(earlier.tasks if earlier else ()), *answer.tasks) if each.checkpoint in held]
    tasks, models = [*dict.fromkeys(each.task for each in curves)], [*held]
    curves.sort(key=lambda each: (tasks.index(each.task), models.index(each.checkpoint)))
    idle = dict.fromkeys((*(earlier.idle if earlier else ()), *answer.idle))
    return Curve(
        id=answer.technique, checkpoints=held, parts=parts,
        untuned=answer.untuned, knob=answer.knob, main_cost=answer.main_cost, tasks=tuple(curves),  # type: ignore[arg-type]
        refused=answer.refused | (earlier.refused if earlier else {}),
        idle=tuple(name for name in idle if name not in tasks), **about,
    )  # fmt: skip
