"""A plan: the stacks worth having, what each buys, and why the others are not there.

A stack is worth having if no other is at least as good in all of: the goal, further metrics that were asked for, the
risk, and the number of techniques. Figures count in steps of a hundredth, since a roofline tells no finer. What quality
costs is not predicted: no entry says it for stacks, so the plan shows what sources report of each technique alone, with
its setting. For the same reason techniques are searched at the setting that their entry gives, where a harsher one
would always look better; others are tried where the user asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.results import ReportedResult
from lvlm_atlas.planner.metric import METRICS, Metric
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.roofline.units import number, share
from lvlm_atlas.rows import frame, markdown
from lvlm_atlas.specs.answers import Kept
from lvlm_atlas.specs.joint import KeptTogether

FORMAT = "lvlm-atlas-plan/2"
"""Names the layout of the JSON; the number rises when a key changes its meaning."""


@dataclass(frozen=True)
class Limit:
    """A limit and how a stack stands to it."""

    metric: Metric
    most: float
    """The limit, in the metric's unit."""
    value: float
    """What is predicted."""

    @property
    def met(self) -> bool:
        """Whether it is kept."""
        return self.value <= self.most

    @property
    def share(self) -> float:
        """By which share of the limit the value lies below it; negative above."""
        return 1 - self.value / self.most

    def __str__(self) -> str:
        words = "below" if self.met else "above"
        if self.share < -9:
            return f"{self.metric.name} {self.metric.shown(self.value)}, {number(1 - self.share)} times its limit"
        return f"{self.metric.name} {self.metric.shown(self.value)}, {share(abs(self.share))} {words} its limit"


@dataclass(frozen=True)
class Together:
    """Whether two techniques of a stack get along."""

    one: str
    two: str
    verdict: str
    """`works` or `unknown`."""
    why: tuple[str, ...]
    """The statements that say so."""
    edges: tuple[Edge, ...] = ()
    """All that is stated or derived of the two."""


@dataclass(frozen=True)
class Option:
    """A stack with what is predicted of it."""

    estimate: Estimate
    risk: str
    """Place on the scale of `risk.RISKS`."""
    limits: tuple[Limit, ...]
    """The limits asked for."""
    pairs: tuple[Together, ...]
    """Its techniques, two by two."""
    reported: Mapping[str, tuple[ReportedResult, ...]]
    """What sources report of each technique alone, with their settings."""
    quality: Mapping[str, ReportedResult | None] = field(default_factory=dict)
    """Of those, by technique, the one that says best which share of the quality it keeps; None: no source says."""
    answers: Mapping[str, Kept] = field(default_factory=dict)
    """What each technique alone keeps of the answers of the lab's small models, where that was asked for."""
    elsewhere: Mapping[str, Mapping[str, Kept]] = field(default_factory=dict)
    """The same on models of other architectures, by technique and architecture, as far as it ran there."""
    together: KeptTogether | None = None
    """What all are expected to keep of them together, where that was asked for and there are several."""
    warnings: tuple[str, ...] = ()
    """What stands between the stack and its use, or between the prediction and what sources saw."""
    shipped: tuple[str, ...] = ()
    """Which engines and toolkits have its techniques, and how they are switched on."""

    @property
    def label(self) -> str:
        """Its techniques and settings, in pipeline order."""
        return " + ".join(each.label for each in self.estimate.stack) or "none"

    @property
    def meets(self) -> bool:
        """Whether every limit is kept."""
        return all(limit.met for limit in self.limits)


@dataclass(frozen=True)
class Lost:
    """Something that is not in the plan."""

    what: str
    """A technique or a stack."""
    kind: str
    """`left-out`: not searched; `no-gain`, `dominated`, `limit` or `memory`: searched and lost; `conflict`: a pair that
    cannot share a stack; `answers`: one that keeps too few answers together."""
    why: str


_FIGURES = (
    "ttft_s", "tpot_s", "total_s", "device_byte", "fits_at_once", "requests_per_s", "energy_j", "cost_usd",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Plan:
    """The answer to: which stack for this model, device and request."""

    goal: Metric
    baseline: Option
    """Without techniques."""
    front: tuple[Option, ...]
    """Stacks that no other beats in goal, risk and number of techniques at once; best at the goal first."""
    runners_up: tuple[Lost, ...]
    """The best stacks at the goal that are not on the front."""
    unused: tuple[Lost, ...]
    """Techniques that were searched and are in no stack of the front."""
    conflicts: tuple[Lost, ...]
    """Pairs of searched techniques that cannot share a stack."""
    left_out: tuple[Lost, ...]
    """Techniques that were not searched."""
    searched: int
    """Stacks evaluated."""
    settings: str
    """Which settings were searched."""

    def __repr__(self) -> str:
        base = self.baseline.estimate
        best = f": {self.front[0].label}" if self.front else ": none is better than none"
        return (
            f"<Plan of {self.goal.name}, {base.model.id} on {base.device.id}, {base.workload.id}: {len(self.front)} "
            f"stacks of {self.searched:,}{best}>"
        )

    def __iter__(self) -> Iterator[Option]:
        return iter(self.front)

    def __len__(self) -> int:
        return len(self.front)

    def _repr_markdown_(self) -> str:
        columns = ("#", "stack", self.goal.name, "gain", "takes longest", "risk")
        rows = [
            (
                str(number), option.label, self.goal.shown(self.goal.of(option.estimate)),
                "" if not number else f"{self.gain(option, self.goal.name) or math.inf:.3g} ×",
                option.estimate.bottleneck, option.risk if number else "",
            )
            for number, option in enumerate((self.baseline, *self.front))
        ]  # fmt: skip
        return f"{markdown(columns, rows)}\n\nPredicted, not measured: {self.searched:,} stacks."

    def records(self) -> list[dict[str, Any]]:
        """A record for each stack, the one without techniques first; SI base units."""
        data = self.to_dict()
        return [
            {
                "rank": number, "stack": " + ".join(each["stack"]), "risk": each["risk"],
                **{name: each[name] for name in _FIGURES},
                **{f"{name}_gain": stage["gain"] for name, stage in each["stages"].items()},
                "quality_percent": each["quality_percent"], "bottleneck": each["bottleneck"]["after"],
                "limits_met": all(limit["met"] for limit in each["limits"]),
                "unknown_pairs": sum(pair["verdict"] == "unknown" for pair in each["pairs"]),
            }
            for number, each in enumerate((data["baseline"], *data["front"]))
        ]  # fmt: skip

    def to_pandas(self) -> Any:
        """The records as a pandas frame.

        Raises:
            AtlasError: pandas is not installed.
        """
        return frame(self.records())

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the numbers take for granted, once each."""
        said = [*self.baseline.estimate.assumptions]
        for option in self.front:
            said += option.estimate.assumptions
        return tuple(dict.fromkeys(said))

    def gain(self, option: Option, name: str) -> float | None:
        """How many times better a stage, or a metric, is than without techniques; None where there was nothing."""
        return gain(self.baseline.estimate, option.estimate, name)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON; numbers are predicted, but for what stands under `reported`."""
        base = self.baseline.estimate
        return {
            "format": FORMAT,
            "model": base.model.id,
            "hardware": base.device.id,
            "workload": base.workload.id,
            "goal": self.goal.name,
            "evidence": "predicted",
            "searched": self.searched,
            "settings": self.settings,
            "baseline": self._option(self.baseline),
            "front": [self._option(option) for option in self.front],
            **{
                name: [{"what": each.what, "kind": each.kind, "why": each.why} for each in getattr(self, name)]
                for name in ("runners_up", "unused", "conflicts", "left_out")
            },
            "assumptions": list(self.assumptions),
        }

    def _option(self, option: Option) -> dict[str, Any]:
        estimate = option.estimate
        return {
            "stack": [each.label for each in estimate.stack],
            "risk": option.risk,
            "quality_percent": min(
                (kept.percent_of_baseline for kept in option.quality.values() if kept and kept.percent_of_baseline),
                default=None,
            ),
            "ttft_s": estimate.ttft_s,
            "tpot_s": estimate.tpot_s,
            "total_s": estimate.total_s,
            "device_byte": estimate.memory.device_byte,
            "fits_at_once": estimate.fits_at_once,
            "requests_per_s": estimate.workload.batch / estimate.total_s,
            "energy_j": estimate.energy_j,
            "cost_usd": estimate.cost_usd,
            "stages": {
                name: {"time_s": stage.time_s, "bound": stage.bound, "gain": self.gain(option, name)}
                for name, stage in estimate.stages.items()
            },
            "gain": {name: self.gain(option, name) for name in ("ttft", "tpot", "total", "memory", "concurrency")},
            "bottleneck": {"before": self.baseline.estimate.bottleneck, "after": estimate.bottleneck},
            "limits": [
                {"metric": each.metric.name, "most": each.most, "value": each.value, "met": each.met,
                 "share": each.share}
                for each in option.limits
            ],
            "pairs": [
                {"techniques": [each.one, each.two], "verdict": each.verdict, "why": list(each.why)}
                for each in option.pairs
            ],
            "reported": {
                id_: [asdict(result) for result in results] for id_, results in option.reported.items()
            },
            "answers": {
                id_: {"share": kept.share, "margin": kept.margin, "tasks": list(kept.tasks), "models": kept.models,
                      "elsewhere": {name: other.share for name, other in option.elsewhere.get(id_, {}).items()}}
                for id_, kept in option.answers.items()
            },
            "answers_together": None if option.together is None else asdict(option.together),
            "warnings": list(option.warnings),
            "shipped": list(option.shipped),
            "assumptions": [text for each in estimate.stack for text in each.assumptions],
        }  # fmt: skip


def gain(before: Estimate, after: Estimate, name: str) -> float | None:
    """How many times better a stage, or a metric, gets; None where there is nothing."""
    if name in STAGES:
        old, new = before.stages[name].time_s, after.stages[name].time_s
    else:
        old, new = METRICS[name].of(before), METRICS[name].of(after)
    return old / new if new else None
