"""The work of all decoding: steps one after the other, or rounds of drafting and verifying."""

from __future__ import annotations

from collections.abc import Iterable

from lvlm_atlas.roofline.kind import Kind
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.llm import step
from lvlm_atlas.roofline.operator import Machine, Operator, Work
from lvlm_atlas.roofline.stage import summed
from lvlm_atlas.roofline.state import State


def decoding(
    lay: Layout, state: State, layers: dict[Kind, int], walls: Machine, turns: int
) -> tuple[list[Operator], float]:
    """Operators of all decoding, and the time per output token after the first of each answer."""
    plain_passes, rounds = passes(state, turns)
    steps = turns * (state.output - 1)
    if not steps:
        return [], 0.0

    def times(works: Iterable[Work], share: float) -> list[Operator]:
        return [_scaled(walls.run(work), share) for work in works]

    done = times(step(lay, state, layers, 1, turns), plain_passes)
    if rounds:
        # A draft pass is a plain step made smaller: its cost is a share of one.
        drafted = summed("draft", done)
        fields = ("flop", "weight_byte", "activation_byte", "kv_byte", "vision_byte", "link_byte", "host_byte")
        moved = {name: sum(getattr(each.work, name) for each in done) for name in fields}
        draft = Operator(Work("technique: draft", "technique", **moved), drafted.time_s, drafted.bound)
        done = [draft, *times(step(lay, state, layers, 1 + state.draft_nodes, turns), rounds)]
    return done, sum(each.time_s for each in done) / steps


def passes(state: State, turns: int) -> tuple[float, float]:
    """How many plain steps all decoding takes, those of drafts in their share of one, and how many verifying rounds."""
    steps = turns * (state.output - 1)
    if not state.draft_nodes:
        return steps, 0.0
    rounds = steps / (1 + state.accepted)
    return rounds * state.draft_passes * state.draft_cost, rounds


def _scaled(each: Operator, times: float) -> Operator:
    """An operator that runs so many times."""
    work = each.work
    return Operator(
        Work(
            work.name, work.kind, work.flop * times, work.weight_byte * times, work.activation_byte * times,
            work.kv_byte * times, work.vision_byte * times, work.link_byte * times, work.host_byte * times,
            work.kernels * times, work.shards,
        ),
        each.time_s * times,
        each.bound,
    )  # fmt: skip
