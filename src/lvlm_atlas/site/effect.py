"""What a technique does to the reference request, stage by stage, as the roofline predicts it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from markupsafe import Markup

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.predicted import WORKLOADS
from lvlm_atlas.roofline import units
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.site.bars import Bar, Part, bars
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.estimates import REFERENCE, Case

CASES = (
    *(replace(REFERENCE, workload=workload) for workload in WORKLOADS),
    replace(REFERENCE, model="llava-1.5-7b"),
)
"""What pages show a technique on: the first that it can run on."""


@dataclass(frozen=True)
class Effect:
    """A request without a technique and with it, or why there is none to show."""

    case: Case
    before: Estimate | None = None
    after: Estimate | None = None
    why_not: str = ""
    """Why the reference request is not shown; empty where it is."""

    @property
    def rows(self) -> list[tuple[str, str, str, str]]:
        """What may change: its name, without, with, gain."""
        if not (self.before and self.after):
            return []
        one, two = self.before, self.after
        times = [(name.capitalize(), one.stages[name].time_s, two.stages[name].time_s) for name in STAGES]
        times += [
            ("Time to first token", one.ttft_s, two.ttft_s),
            ("Time per output token", one.tpot_s, two.tpot_s),
            ("Whole request", one.total_s, two.total_s),
        ]
        sizes = [
            ("Cache after prefilling", one.memory.kv_byte, two.memory.kv_byte),
            ("Device memory", one.memory.device_byte, two.memory.device_byte),
        ]
        return [
            (name, show(before), show(after), units.gain(before, after))
            for show, found in ((units.seconds, times), (units.size, sizes))
            for name, before, after in found
        ]

    @property
    def changes(self) -> bool:
        """Whether anything changes at all."""
        return any(gain != units.NO_CHANGE for *_, gain in self.rows)

    @property
    def taken(self) -> tuple[str, ...]:
        """What was taken for the technique where data decide."""
        return tuple(said for each in self.after.stack for said in each.assumptions) if self.after else ()


def effect_of(content: Content, technique: Technique) -> Effect:
    """The technique at its defaults on the first of `CASES` that it can run on."""
    estimates, why_not = content.estimates, ""
    for case in CASES:
        if not estimates.holds(case):
            continue
        try:
            return Effect(case, estimates.of(case), estimates.of(replace(case, technique=technique.id)), why_not)
        except AtlasError as error:
            why_not = why_not or str(error).partition(";")[0]
    return Effect(REFERENCE, why_not=why_not or "the catalog lacks the reference model, device or workload")


def pictured(content: Content, effect: Effect) -> Markup:
    """Each stage without the technique and with it, on one scale."""
    if not (effect.before and effect.after):
        return Markup()
    rows = []
    for name in STAGES:
        before, after = effect.before.stages[name].time_s, effect.after.stages[name].time_s
        class_ = content.stage_classes[name]
        rows.append(Bar(name.capitalize(), (Part(before, f"{class_} la-faint"),), units.seconds(before)))
        text = f"{units.seconds(after)}, {units.gain(before, after)}"
        rows.append(Bar("with it", (Part(after, class_),), text, below=True))
    return bars(
        rows, id_="la-effect", title="Time of each stage, without the technique and with it",
        desc="The table has the same numbers.",
    )  # fmt: skip


def times(content: Content, estimate: Estimate) -> Markup:
    """Each stage of one request, with its time and what sets it."""
    rows = [
        Bar(name.capitalize(), (Part(stage.time_s, content.stage_classes[name]),),
            f"{units.seconds(stage.time_s)}, set by {stage.bound}")
        for name, stage in estimate.stages.items()
    ]  # fmt: skip
    said = "; ".join(f"{row.name} {row.text}" for row in rows)
    return bars(rows, id_="la-times", title="Time of each stage", desc=f"{said}.")
