"""An estimate in words and rows, for terminals, pages and notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lvlm_atlas.roofline.contract import contract
from lvlm_atlas.roofline.diagnosis import diagnosis
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.reading import image_tokens, video_tokens
from lvlm_atlas.roofline.stage import STAGES, Stage, summed
from lvlm_atlas.roofline.units import NO_CHANGE, flop, gain, number, seconds, share, size
from lvlm_atlas.roofline.weights import as_released, weights, weights_byte, weights_of
from lvlm_atlas.rows import markdown

COLUMNS = ("stage", "time", "share", "bound", "FLOP/B", "tokens", "FLOP", "bytes")
"""What the table shows of a stage."""


def subject(estimate: Estimate) -> str:
    """What an estimate is about: model, devices, request, and how near to the peaks it is taken to run."""
    devices = f"{estimate.deployment.devices} × " if estimate.deployment.devices > 1 else ""
    where, pace = f"{devices}{estimate.device.name}", estimate.deployment.pace
    return f"{estimate.model.name} on {where}, {estimate.workload.id}, {pace}"


def certainty(estimate: Estimate) -> str:
    """How sure the times are."""
    runtime = estimate.deployment.runtime
    if runtime is None:
        return "Predicted, not measured"
    if estimate.residual is None:
        return f"Predicted, not measured; no timing of {runtime.name} says how sure"
    band = share(estimate.residual)
    return f"Predicted, not measured; half of the timings left out of the fit of {runtime.name} are within ± {band}"


def markdown_page(estimate: Estimate, plain: Estimate | None, operators: bool) -> str:
    """An estimate in Markdown, beside the same request without techniques."""
    columns = (*COLUMNS, "gain") if plain else COLUMNS
    parts = [
        "\n\n".join(f"**{line}**" for line in head(estimate)),
        markdown(columns, stage_rows(estimate, plain)),
        markdown(("", "with", "without", "gain") if plain else ("", "predicted"), sums(estimate, plain)),
    ]
    if operators:
        parts.append(markdown(OPERATOR_COLUMNS, operator_rows(estimate)))
    parts.append(f"{diagnosis(estimate)}.")
    parts.append("\n".join(f"- {each}" for each in (f"{certainty(estimate)}.", *estimate.assumptions)))
    return "\n\n".join(parts)


def stage_records(data: dict[str, Any], plain: Estimate | None) -> Iterator[dict[str, Any]]:
    """A record for each stage of an estimate as JSON; SI base units."""
    for name, stage in data["stages"].items():
        row = {"stage": name, **stage}
        if plain:
            before = plain.stages[name].time_s
            row |= {"time_s_without": before, "gain": before / stage["time_s"] if stage["time_s"] else None}
        yield row


def head(estimate: Estimate, title: str | None = None) -> Iterator[str]:
    """The title, and what of the request the model does not read or was not made for."""
    yield title or _title(estimate)
    if estimate.exceeds_context:
        yield (
            f"beyond the model's context: {estimate.context_tokens:,} tokens of prompt and answer where "
            f"{estimate.model.name} is released for {estimate.model.llm.context:,}"
        )
    types = weights_of(estimate.deployment, estimate.model)
    if types.of_all:
        released = as_released(types)
        byte = sum(weights_byte(weights(released, estimate.model), estimate.model).values())
        yield (
            f"all weights in {types}, without scales: a bound; a checkpoint as released takes {size(byte)} "
            f"(--weight-dtype {released})"
        )
    read, asked = estimate.frames_read
    if read != asked and all(video.frames is None for video in estimate.workload.videos):
        yield f"frames read: {read:,} of {asked:,} asked for, by the model's rule; --frames overrides it"
    for name, tokens in video_tokens(estimate.model, estimate.workload).items():
        yield f"videos read by the rule of the model's authors; by that of {name} (--video-by) {tokens:,} vision tokens"
    if estimate.workload.sized_for is not None:
        total = sum(each.count for each in estimate.workload.images)
        sizes = (
            f"{each.width}x{each.height}, which becomes {image_tokens(estimate.model, each, total):,}"
            for each in estimate.workload.images
        )
        yield f"sized for {estimate.workload.sized_for:,} vision tokens an image: {'; '.join(sizes)}"


def _title(estimate: Estimate) -> str:
    stack = f" with {' + '.join(each.label for each in estimate.stack)}" if estimate.stack else ""
    return f"{subject(estimate)}{stack}"


def stage_rows(estimate: Estimate, plain: Estimate | None) -> Iterator[tuple[str, ...]]:
    """What each stage costs, and costs without techniques."""
    for name in STAGES:
        yield (*_row(name, estimate, name), *([_gain(plain, estimate, name)] if plain else []))
        if plain:
            yield (*_row("  without", plain, name), "")


def _row(label: str, estimate: Estimate, name: str) -> tuple[str, ...]:
    stage = estimate.stages[name]
    if not stage.operators:
        return (label, *[""] * (len(COLUMNS) - 1))
    tokens = contract(estimate)["tokens"]
    count = {
        "encoding": tokens["encoder"],
        "prefilling": tokens["vision"] + tokens["text"],
        "decoding": tokens["output"],
    }[name]
    time, bound, intensity, flops, bytes_ = _costs(stage)
    return label, time, share(stage.time_s / estimate.total_s), bound, intensity, f"{count:,}", flops, bytes_


def _gain(plain: Estimate, estimate: Estimate, name: str) -> str:
    return _ratio(plain.stages[name].time_s, estimate.stages[name].time_s)


def sums(estimate: Estimate, plain: Estimate | None) -> Iterator[tuple[str, ...]]:
    """What the request comes to, and without techniques."""
    after = dict(_quantities(estimate))
    before = dict(_quantities(plain)) if plain else {}
    for name, (value, shown) in after.items():
        if plain is None:
            yield name, shown
        else:
            old, old_shown = before[name]
            faster = name in ("tokens/s", "requests at once", "tokens at once", "largest batch")
            yield name, shown, old_shown, _ratio(value, old) if faster else _ratio(old, value)


def _ratio(before: float, after: float) -> str:
    return gain(before, after).replace(NO_CHANGE, "1.00 ×")


def _quantities(estimate: Estimate) -> Iterator[tuple[str, tuple[float, str]]]:
    """What an estimate comes to: values, and as they are shown."""
    memory = estimate.memory
    yield "time to first token", (estimate.ttft_s, seconds(estimate.ttft_s))
    if estimate.tpot_s:
        yield "time per output token", (estimate.tpot_s, seconds(estimate.tpot_s))
    yield "total", (estimate.total_s, seconds(estimate.total_s))
    if estimate.tpot_s:
        yield "tokens/s", (estimate.tokens_s, number(estimate.tokens_s))
    yield "weights", (memory.weight_byte, size(memory.weight_byte))
    yield "KV cache", (memory.kv_byte, size(memory.kv_byte))
    yield "  of it visual", (memory.kv_vision_byte, size(memory.kv_vision_byte))
    which = " each" if estimate.deployment.devices > 1 else ""
    held = f"memory of {size(estimate.usable_byte)}{which}"
    yield held, (memory.device_byte, size(memory.device_byte))
    share_ = estimate.request_share
    yield "requests at once", (1 / share_ if share_ else 0.0, f"{estimate.fits_at_once:,}")
    yield "tokens at once", (float(estimate.fits_tokens), f"{estimate.fits_tokens:,}")
    yield "largest batch", (float(estimate.largest_batch), f"{estimate.largest_batch:,}")
    if estimate.energy_j is not None:
        yield "energy per token", (estimate.energy_j, f"{number(estimate.energy_j / estimate.output_tokens)} J")
    if estimate.cost_usd is not None:
        yield "cost per request", (estimate.cost_usd, f"{number(estimate.cost_usd)} USD")


OPERATOR_COLUMNS = ("operator", "time", "bound", "FLOP/B", "FLOP", "bytes")


def operator_rows(estimate: Estimate) -> Iterator[tuple[str, ...]]:
    """Every stage with its operators below it, those of one name together."""
    for stage in estimate.stages.values():
        if stage.operators:
            yield (stage.name, *_costs(stage))
        names = dict.fromkeys(each.work.name for each in stage.operators)
        for name in names:
            alike = summed(name, [each for each in stage.operators if each.work.name == name])
            yield (f"  {name.removeprefix('technique: ').partition(':')[0]}", *_costs(alike))


def _costs(stage: Stage) -> tuple[str, ...]:
    """What a stage, or a part of one, costs; nothing is shown as nothing."""
    return (
        seconds(stage.time_s),
        _bound(stage.bound),
        number(stage.intensity) if stage.intensity else "",
        flop(stage.flop) if stage.flop else "",
        size(stage.byte) if stage.byte else "",
    )


def _bound(bound: str) -> str:
    return "link" if bound == "communication" else bound
