"""Two techniques together against each alone: whether their gains multiply, and which wall is in the way if not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lvlm_atlas.planner.plan import gain
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.roofline.units import share

Kind = Literal["synergy", "diminishing", "shift", "independent"]
"""More than the product of both gains, less than it, the bottleneck moves on to another stage, or none of these."""

SYNERGY, DIMINISHING = 1.02, 0.98
"""Ratios of the joint gain to the product of both alone, beyond which the two help or hinder each other."""
FIGURES = ("ttft", "tpot", "total", "memory")


@dataclass(frozen=True)
class Gain:
    """What a pair does to one figure: how many times smaller it gets."""

    figure: str
    """A metric or a stage."""
    first: float
    second: float
    joint: float

    @property
    def expected(self) -> float:
        """The joint gain if each technique took its share whatever the other does."""
        return self.first * self.second

    @property
    def ratio(self) -> float:
        """The joint gain in terms of the expected one."""
        return self.joint / self.expected

    @property
    def kind(self) -> Kind:
        """What the ratio means."""
        if self.ratio > SYNERGY:
            return "synergy"
        return "diminishing" if self.ratio < DIMINISHING else "independent"


@dataclass(frozen=True)
class Pair:
    """Four estimates of one request: with neither technique, with each, with both."""

    neither: Estimate
    first: Estimate
    second: Estimate
    joint: Estimate

    @property
    def names(self) -> tuple[str, str]:
        """Both techniques with their settings."""
        return self.first.stack[0].label, self.second.stack[0].label

    def gain(self, figure: str) -> Gain:
        """What becomes of a metric or a stage; 1 where there is none of it."""
        alone = [gain(self.neither, each, figure) or 1.0 for each in (self.first, self.second, self.joint)]
        return Gain(figure, *alone)

    @property
    def gains(self) -> tuple[Gain, ...]:
        """What becomes of every metric."""
        return tuple(self.gain(figure) for figure in FIGURES)

    @property
    def shift(self) -> tuple[str, str] | None:
        """The stage that takes longest before and with both, if that is another."""
        before, after = self.neither.bottleneck, self.joint.bottleneck
        return None if before == after else (before, after)

    @property
    def kind(self) -> Kind:
        """What the two do to each other in total time; where nothing, whether together they move the bottleneck."""
        kind = self.gain("total").kind
        return "shift" if kind == "independent" and self.shift else kind

    @property
    def why(self) -> str:
        """Which wall decides, in a sentence."""
        return because(self)

    def to_dict(self) -> dict[str, Any]:
        """The pair as JSON; every number is predicted."""
        base = self.neither
        return {
            "format": "lvlm-atlas-interactions/1",
            "techniques": list(self.names),
            "model": base.model.id,
            "hardware": base.device.id,
            "workload": base.workload.id,
            "evidence": "predicted",
            "kind": self.kind,
            "why": self.why,
            "bottleneck": {"before": base.bottleneck, "after": self.joint.bottleneck},
            "gains": [
                {"figure": each.figure, "first": each.first, "second": each.second, "joint": each.joint,
                 "expected": each.expected, "ratio": each.ratio, "kind": each.kind}
                for each in (*self.gains, *(self.gain(stage) for stage in STAGES))
            ],
            "assumptions": list(dict.fromkeys((*base.assumptions, *self.joint.assumptions))),
        }  # fmt: skip


def because(pair: Pair) -> str:
    """Why the joint gain is what it is: the stage that decides it, and how much of the total that is."""
    total = pair.gain("total")
    one, two = pair.names
    if total.kind == "independent":
        if pair.shift:
            before, after = pair.shift
            share = _share(pair.joint, after)
            return f"together they move the bottleneck from {before} to {after}, which is then {share} of the time"
        return f"alone, {_stages(pair, one, pair.first)}; {_stages(pair, two, pair.second)}"
    stages = [pair.gain(name) for name in STAGES]
    # Within a stage the two may already meet; else the one changes how much of the total the other's stage is.
    inner = max(stages, key=lambda each: abs(_excess(pair, each)))
    if abs(_excess(pair, inner)) > abs(total.ratio - 1) / 2:
        words = "more" if inner.ratio > 1 else "less"
        bound = pair.joint.stages[inner.figure].bound
        return (
            f"they meet in {inner.figure}: {inner.joint:.2f}× together, {words} than the {inner.expected:.2f}× that "
            f"{inner.first:.2f}× and {inner.second:.2f}× make; {bound} bounds what is left"
        )
    small, by = (two, pair.first) if _moved(pair, pair.first) >= _moved(pair, pair.second) else (one, pair.second)
    other = pair.second if by is pair.first else pair.first
    stage = max(STAGES, key=lambda name: _saved(pair.neither, other, name))
    before, after = _share(pair.neither, stage), _share(by, stage)
    alone = pair.neither.total_s / other.total_s
    then = by.total_s / pair.joint.total_s
    return (
        f"with {by.stack[0].label} {stage} is {after} of the time in place of {before}, so that {small} then buys "
        f"{_change(then)} instead of {_change(alone)}"
    )


def _excess(pair: Pair, stage: Gain) -> float:
    """By how much of the joint total a stage's own ratio explains the total's."""
    time = pair.joint.stages[stage.figure].time_s
    return (time * stage.ratio - time) / pair.joint.total_s


def _moved(pair: Pair, alone: Estimate) -> float:
    return abs(pair.neither.total_s - alone.total_s)


def _saved(before: Estimate, after: Estimate, stage: str) -> float:
    return abs(before.stages[stage].time_s - after.stages[stage].time_s)


def _share(estimate: Estimate, stage: str) -> str:
    return share(estimate.stages[stage].time_s / estimate.total_s)


def _change(ratio: float) -> str:
    return f"{ratio:.2f}×"


def _stages(pair: Pair, name: str, alone: Estimate) -> str:
    """What a technique alone does, stage by stage."""
    changed = [
        f"{stage} {ratio:.2f}×"
        for stage in STAGES
        if (ratio := gain(pair.neither, alone, stage)) and abs(ratio - 1) >= 0.01
    ]
    return f"{name} {', '.join(changed) or 'changes no stage'}"
