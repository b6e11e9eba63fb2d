"""The operators of all decoding: steps one after the other, or rounds of drafting and verifying."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lvlm_atlas.roofline.operator import Machine, Operator, Work, waiting
from lvlm_atlas.roofline.stage import summed
from lvlm_atlas.roofline.stages import Part, Step

_SUMS = ("flop", "weight_byte", "activation_byte", "kv_byte", "vision_byte", "link_byte", "host_byte")


def operators(walls: Machine, parts: Iterable[Part], floor_s: float) -> list[Operator]:
    """The operators of some parts, in order, and what they wait for the host until `floor_s` has passed."""
    found = [walls.run(work) for part in parts for work in part.works(part.layers)]
    return found + waiting(sum(each.time_s for each in found), floor_s) if floor_s else found


def repeated(walls: Machine, steps: Iterable[Step]) -> list[Operator]:
    """The operators of passes, each as one that runs as often as its pass does."""
    return [_repeated(each, step.times) for step in steps for each in operators(walls, step.parts, step.floor_s)]


def decoding(walls: Machine, steps: Sequence[Step]) -> list[Operator]:
    """The operators of all steps. The plain steps before those that verify are a draft's and become one operator."""
    if len(steps) < 2:
        return repeated(walls, steps)
    drafted, verified = (repeated(walls, [step]) for step in steps)
    stage = summed("draft", drafted)
    moved = {name: sum(getattr(each.work, name) for each in drafted) for name in _SUMS}
    return [Operator(Work("technique: draft", "technique", **moved), stage.time_s, stage.bound), *verified]


def _repeated(each: Operator, times: float) -> Operator:
    """An operator that runs so many times."""
    work = each.work
    return Operator(
        Work(
            work.name, work.kind, work.flop * times, work.weight_byte * times, work.activation_byte * times,
            work.kv_byte * times, work.vision_byte * times, work.link_byte * times, work.host_byte * times,
            work.kernels * times, work.shards, work.law, work.host_s * times,
            work.few_flop * times,
        ),
        each.time_s * times,
        each.bound,
    )  # fmt: skip
