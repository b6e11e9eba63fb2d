"""Peaks of accelerators are dense ones, and software finds about as much memory as vendors print."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.rules.rule import Finding, rule
from lvlm_atlas.rules.sample import DEVICE
from lvlm_atlas.schema.hardware import Hardware

_DOUBLE = 2.05
"""Half the width, twice the rate; published figures are rounded."""
_STEPS = (
    ("fp32", "tf32", None), ("fp32", "fp16", None), ("tf32", "fp16", _DOUBLE), ("tf32", "bf16", _DOUBLE),
    ("fp16", "fp8", _DOUBLE), ("bf16", "fp8", _DOUBLE),
    ("fp8", "fp4", 2 * _DOUBLE),  # GeForce halves FP8 with FP32 accumulation, but not FP4
)  # fmt: skip
"""A wider type, a narrower one, and the most by which the narrower is faster on matrix units."""


@rule(
    id="dense-peaks",
    message="{narrow} at {got:g} TFLOP/s does not fit {wide} at {base:g}: {problem}",
    repair="give the dense peak of each type",
    why="Data sheets print the sparse peaks first, which are twice as high and which no dense model reaches.",
    example=lambda files: files[DEVICE]["peak_tflop_s"].update(fp8=400),
)
def dense_peaks(inspection: Inspection) -> Iterator[Finding]:
    """Accelerators: narrower types are not slower, and from TF32 on at most as much faster as they are narrower."""
    for path, device in inspection.of(Hardware):
        for wide, narrow, most in _STEPS:
            base, got = getattr(device.peak_tflop_s, wide), getattr(device.peak_tflop_s, narrow)
            if base is None or got is None:
                continue
            too_fast = most is not None and got > most * base
            if got < base or too_fast:
                problem = "a sparse peak looks like this" if too_fast else "the narrower type is slower"
                words = {"narrow": narrow, "got": got, "wide": wide, "base": base, "problem": problem}
                yield Finding(path=path, loc=("peak_tflop_s", narrow), words=words)


_LEAST = 0.85
"""Share of the vendor's bytes that software finds at least: ECC in GDDR6 and firmware take the rest."""


@rule(
    id="visible-memory",
    message="software finds {gib:g} GiB of {gb:g} GB: {problem}",
    repair="give the GiB that the driver reports, or correct `memory_gb`",
    why="GB and GiB differ by 7 %, which is a whole model on a small device.",
    example=lambda files: files[DEVICE].update(visible_memory={"gib": 17, "source": "Made up."}),
)
def visible_memory(inspection: Inspection) -> Iterator[Finding]:
    """Accelerators whose visible memory is known: at most as many GiB as the vendor has GB, and not far less."""
    for path, device in inspection.of(Hardware):
        visible = device.visible_memory
        if visible is None:
            continue
        too_much = visible.gib > device.memory_gb
        if too_much or visible.gib * 2**30 < _LEAST * device.memory_gb * 1e9:
            problem = "more than there is" if too_much else "a share like that belongs to another device or unit"
            words = {"gib": visible.gib, "gb": device.memory_gb, "problem": problem}
            yield Finding(path=path, loc=("visible_memory", "gib"), words=words)
