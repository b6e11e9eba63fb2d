"""What runs cost: counts of their traces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lvlm_atlas.reference.flow.trace import Trace

Costs = Mapping[str, float]


def cost(trace: Trace) -> dict[str, float]:
    """What was counted of a run, by the names of `Curve`."""
    return {
        "pixels": trace.pixels,
        "frames": trace.frames,
        "encoder_tokens": sum(trace.encoder_tokens),
        "vision_tokens": sum(trace.llm_vision_tokens),
        "score_entries": sum(trace.score_entries),
        "kv_byte": sum(trace.kv_byte),
        "kv_read": sum(trace.kv_read) / max(1, trace.target_passes),
        "target_passes": trace.target_passes / max(1, trace.output_tokens),
    }


def total(costs: Iterable[Costs]) -> dict[str, float]:
    """The sum of runs."""
    sums: dict[str, float] = {}
    for each in costs:
        for name, value in each.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def ratios(costs: Costs, full: Costs) -> dict[str, float]:
    """Costs as shares of those without techniques; 1 where there were none."""
    return {name: value / full[name] if full[name] else 1.0 for name, value in costs.items()}
