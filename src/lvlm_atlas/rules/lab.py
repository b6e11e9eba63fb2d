"""Records of the lab tell of the trained models that are there."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.trained import FOLDER, MODEL, PART, records
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.schema.curve import Curve
from lvlm_atlas.schema.stack import MeasuredStack


def _trained_anew(files: Files) -> None:
    """A curve, and its model with other weights."""
    machine = {"device": "x86_64 processor", "kind": "cpu", "python": "3.11.7", "torch": "2.13.0", "system": "Linux"}
    files["catalog/curves/alpha.yaml"] = {
        "id": "alpha", "date": "2026-01-01", "version": "0.1.0", "machine": machine, "samples": 1,
        "checkpoints": {"nu": "a" * 64}, "main_cost": "kv_byte",
    }  # fmt: skip
    files[f"{FOLDER}/nu/{MODEL}"] = {"id": "nu", "sha256": "b" * 64}


@rule(
    id="lab-other-weights",
    message="ran on a {name} with other weights, {then:.8}…, than are there now, {now:.8}…",
    repair="run it anew: lvlm-atlas lab {command}",
    why="Pages and plans would tell what a technique costs a model that nobody has any more.",
    example=_trained_anew,
)
def lab_other_weights(inspection: Inspection) -> Iterator[Finding]:
    """Models and parts of curves and stacks, by the hashes of their weights; absent ones are passed over."""
    root = inspection.atlas.root
    trained = {"checkpoints": records(root, MODEL), "parts": records(root, PART)}
    for path, record in (*inspection.of(Curve), *inspection.of(MeasuredStack)):
        command = f"run {record.id}" if isinstance(record, Curve) else "stacks"
        for field, theirs in trained.items():
            for name, then in getattr(record, field).items():
                now = theirs[name]["sha256"] if name in theirs else then
                if now != then:
                    words = {"name": name, "then": then, "now": now, "command": command}
                    yield Finding(path=path, loc=(field, name), words=words)
