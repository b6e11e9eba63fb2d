"""What limits a request, in one line."""

from __future__ import annotations

from collections import defaultdict

from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.stage import Stage

_PARTS = {
    "linear": "linear layers",
    "attention": "attention",
    "elementwise": "norms, activations and residual sums",
    "link": "traffic between devices",
    "technique": "what techniques add",
    "host": "the host",
}
"""Kinds of operators, as readers call them."""
_BOUNDS = {
    "communication": "bound by the link", "launch": "bound by kernel launches", "host": "bound by the host",
}  # fmt: skip
"""What bounds a stage, where its name and `-bound` would not do."""


def diagnosis(estimate: Estimate) -> str:
    """The stage that takes longest, what bounds it, and what most of that is.

    Where memory traffic is the bound, its largest part is named, and that of the visual cache if it is another; else
    the operators that take most of the time.
    """
    stage = estimate.stages[estimate.bottleneck]
    bound = _BOUNDS.get(stage.bound, f"{stage.bound}-bound")
    if stage.bound == "memory":
        said = _traffic(estimate, stage)
    else:
        times: dict[str, float] = defaultdict(float)
        for each in stage.operators:
            times[each.work.kind] += each.time_s
        kind = max(times, key=lambda kind: times[kind])
        said = f"{_percent(times[kind] / stage.time_s)} of its time goes to {_PARTS[kind]}"
    share = _percent(stage.time_s / estimate.total_s)
    return f"{stage.name} is {bound} and takes {share} of the time; {said}"


def _traffic(estimate: Estimate, stage: Stage) -> str:
    works = [each.work for each in stage.operators]
    vision = sum(work.vision_byte for work in works)
    parts = {
        "visual KV": vision,
        "weights": sum(work.weight_byte for work in works),
        "text KV": sum(work.kv_byte for work in works) - vision,
        "activations": sum(work.activation_byte for work in works),
    }
    largest = max(parts, key=lambda name: parts[name])
    said = f"{_percent(parts[largest] / stage.byte)} of its traffic is {largest}"
    visual = largest != "visual KV" and stage.name == "decoding" and estimate.state.vision > 0
    return said + (f", {_percent(vision / stage.byte)} visual KV" if visual else "")


def _percent(share: float) -> str:
    if 0 < share < 0.005:
        return "under 1 %"
    return f"{share:.0%}".replace("%", " %")
