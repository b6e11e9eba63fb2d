"""Techniques at equal quality: what the engine predicts of each at the setting that keeps enough in the lab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.candidates import candidates
from lvlm_atlas.planner.equal_quality import Quality
from lvlm_atlas.planner.objective import Objective
from lvlm_atlas.planner.plan import Lost
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.site.estimates import Case, Estimates
from lvlm_atlas.specs.answers import Kept

WORKLOAD = "images-20"
"""The request that techniques are compared on."""


@dataclass(frozen=True)
class AtQuality:
    """One technique at that setting."""

    technique: Technique
    setting: str
    """As the planner writes it."""
    kept: Kept
    """Of the answers of the lab's models."""
    estimate: Estimate
    """Of the real model."""


@dataclass(frozen=True)
class EqualQuality:
    """All of them on one request."""

    share: float
    """Of the answers, kept at least."""
    baseline: Estimate
    """Without techniques."""
    rows: Sequence[AtQuality]
    """The shortest time to the first token first."""
    lost: Sequence[Lost]
    """Those with a curve that have no such setting, with the reason."""

    @property
    def command(self) -> str:
        """What plans with these settings."""
        base = self.baseline
        request = f"--model {base.model.id} --hardware {base.device.id} --workload {base.workload.id}"
        return f"lvlm-atlas plan {request} --goal ttft --keep-quality {self.share:g}"


def equal_quality(estimates: Estimates, share: float) -> EqualQuality | None:
    """What techniques gain where each keeps at least a share of the answers; None where nothing can be said of it.

    Args:
        estimates: the engine over the records.
        share: of the answers.
    """
    kb, case = estimates.kb, Case(workload=WORKLOAD)
    if not estimates.holds(case):
        return None
    baseline = estimates.of(case)
    try:
        chosen = candidates(kb, baseline, Objective(goal="ttft", quality=Quality(share)))
    except AtlasError:  # no curves
        return None
    base = baseline.model, baseline.device, baseline.workload, baseline.deployment
    rows = [
        AtQuality(each.choice.technique, each.applied.label, chosen.answers[each.id], estimate(*base, [each.applied]))
        for each in chosen.searched
    ]
    rows.sort(key=lambda row: (row.estimate.ttft_s, row.estimate.tpot_s, row.technique.id))
    return EqualQuality(share, baseline, rows, [each for each in chosen.left_out if each.what in kb.atlas.curves])
