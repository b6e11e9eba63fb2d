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


def up_to_date(
    curves: Mapping[str, Curve], technique: str, hashes: Mapping[str, str], parts: Mapping[str, str]
) -> bool:
    """Whether a technique has a curve on these trained models, and with these parts of theirs where it used any."""
    if technique not in curves:
        return False
    curve = curves[technique]
    return hashes.items() <= curve.checkpoints.items() and curve.parts.items() <= parts.items()


def write(root: Path, answer: CurveAnswer, hashes: Mapping[str, str], device: str) -> Path:
    """Write the record of a technique under catalog/curves, and return its path.

    Raises:
        AtlasError: it cannot be written.
    """
    curve = Curve(
        id=answer.technique, date=date.today().isoformat(), commit=commit(root), version=version("lvlm-atlas"),
        machine=machine(device), checkpoints=dict(hashes), parts=answer.parts, knob=answer.knob,
        main_cost=answer.main_cost,  # type: ignore[arg-type]
        tasks=answer.tasks, refused=answer.refused, idle=answer.idle,
    )  # fmt: skip
    path = root / CURVES / f"{answer.technique}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = curve.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    replace_file(path, f"# yaml-language-server: $schema=../../taxonomy/schema/curve.json\n{body}")
    return path
