"""Writes the records of curves: a file a technique, in place of an earlier one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

import yaml

from lvlm_atlas.atlas.records import CURVES
from lvlm_atlas.files import replace_file
from lvlm_atlas.lab.curves.curve import CurveAnswer
from lvlm_atlas.lab.record import commit, machine
from lvlm_atlas.schema.curve import Curve


def missing(curve: Curve | None, samples: int, hashes: Mapping[str, str]) -> tuple[str, ...]:
    """The trained models that a curve does not hold on so many samples."""
    held = curve.checkpoints.items() if curve and curve.samples == samples else ()
    return tuple(name for name, hash_ in hashes.items() if (name, hash_) not in held)


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
        hashes: all trained models that the record then holds, and the hashes of their weights.
        device: what it ran on.
        earlier: the same settings on those of these models that were not run; None: all were run.

    Raises:
        AtlasError: it cannot be written.
    """
    curves = [each for each in (*(earlier.tasks if earlier else ()), *answer.tasks) if each.checkpoint in hashes]
    tasks, models = [*dict.fromkeys(each.task for each in curves)], [*hashes]
    curves.sort(key=lambda each: (tasks.index(each.task), models.index(each.checkpoint)))
    idle = dict.fromkeys((*(earlier.idle if earlier else ()), *answer.idle))
    curve = Curve(
        id=answer.technique, date=date.today().isoformat(), commit=commit(root), version=version("lvlm-atlas"),
        machine=machine(device), checkpoints=dict(hashes), samples=samples, knob=answer.knob,
        main_cost=answer.main_cost, tasks=tuple(curves),  # type: ignore[arg-type]
        refused=answer.refused | (earlier.refused if earlier else {}),
        idle=tuple(name for name in idle if name not in tasks),
    )  # fmt: skip
    path = root / CURVES / f"{answer.technique}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = curve.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    replace_file(path, f"# yaml-language-server: $schema=../../taxonomy/schema/curve.json\n{body}")
    return path
