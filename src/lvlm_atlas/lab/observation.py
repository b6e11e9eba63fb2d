"""Runs stacks and holds what their traces count against what their entries predict. A worker process does it."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from lvlm_atlas.lab.checks import TOLERANCE, answers_differ
from lvlm_atlas.lab.expectation import UNCHANGED, Bounds, Member, Observed, dimensions_of, expected
from lvlm_atlas.lab.verification import Item, Outcome, Part, Plan, Row, Shape, StackAnswer, StackJob
from lvlm_atlas.reference.lvlm import LVLM, Refusal, Request, Result, Trace, random_request
from lvlm_atlas.roofline.dimensions import Dimensions
from lvlm_atlas.schema.effect import Speculation


def prepare(job: StackJob) -> None:
    """Make the models that jobs like this one share."""
    for preset in dict.fromkeys(plan.shape.preset for plan in job.plans):
        _model(preset, job.dtype, job.device)


def reset() -> None:
    """Forget what `prepare` and the jobs made."""
    _model.cache_clear()
    _baseline.cache_clear()


def carry_out(job: StackJob) -> StackAnswer:
    """Run the plans of the job and compare."""
    outcomes: list[Outcome] = []
    for plan in job.plans:
        outcomes.append(_outcome(job, plan))
        if sum(bool(outcome.rows) for outcome in outcomes) == job.enough:
            break
    return StackAnswer(job=job, outcomes=tuple(outcomes))


def _outcome(job: StackJob, plan: Plan) -> Outcome:
    lvlm = _model(plan.shape.preset, job.dtype, job.device)
    request = _request(lvlm, plan.shape)
    try:
        settings = zip(job.items, plan.settings, strict=True)
        stack = [pkgutil.resolve_name(str(item.technique.reference))(**setting) for item, setting in settings]
        result = lvlm.run(request, stack)
    except Refusal as error:
        return Outcome(plan=plan, refused=f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - whatever a reference raises is its result
        return Outcome(plan=plan, crashed=f"{type(error).__name__}: {error}")
    dimensions = dimensions_for(lvlm, request)
    observed = observe(result.trace, dimensions)
    try:
        rows = compare(_expected(dimensions, job.items, plan, observed), observed)
        bites = tuple(
            part
            for part in (_parts(job.items) if job.ablate else ())
            if not all(row.holds for row in compare(_expected(dimensions, job.items, plan, observed, part), observed))
        )
    except ValueError as error:
        return Outcome(plan=plan, crashed=f"a declared amount fails: {error}")
    return Outcome(plan=plan, rows=(*rows, *_same_answer(job, lvlm, plan, request, result)), bites=bites)


def dimensions_for(lvlm: LVLM, request: Request) -> Dimensions:
    """The model and the request as the engine sees them."""
    return dimensions_of(
        lvlm.config, frames=len(request.frames_F3HW), text_tokens=len(request.text_N),
        output_tokens=request.max_new_tokens, element_byte=lvlm.dtype.itemsize,
    )  # fmt: skip


def observe(trace: Trace, dimensions: Dimensions) -> Observed:
    """What a trace says of each measure; those it does not count are missing."""
    dense = (dimensions.heads * n * (n + 1) // 2 for n in trace.llm_tokens)
    rounds = trace.target_passes
    return {
        "frames": (trace.frames,),
        "encoder.tokens": tuple(trace.encoder_tokens),
        "vision-tokens": (trace.llm_vision_tokens[0],),  # nothing prunes before layer 0: there is no attention yet
        "llm.vision-tokens": tuple(trace.llm_vision_tokens),
        "llm.vision-tokens: with text": tuple(trace.llm_tokens),
        "attention.density": tuple(s / all_ for s, all_ in zip(trace.score_entries, dense, strict=True)),
        "overhead: attention scores": (trace.probe_entries,),
        "kv.tokens": tuple(trace.kv_entries),
        "kv.tokens: vision": tuple(trace.kv_vision_entries),
        "kv.bits: bytes": tuple(trace.kv_byte),
        "kv.bits: bytes at the end": (trace.kv_byte_end,),
        "output-tokens": (trace.output_tokens,),
        "speculation: draft length": tuple(trace.draft_lengths),
        "speculation: draft nodes": tuple(trace.draft_nodes),
        "speculation: draft passes": (trace.draft_passes / rounds,) if rounds else (),
        "speculation: draft vision tokens": (max(0, trace.draft_tokens - dimensions.text_tokens),),
        "speculation: accepted": tuple(trace.accepted_lengths),
        "speculation: target passes": (rounds,),
    }


def compare(predicted: Bounds, observed: Observed) -> Iterator[Row]:
    """A row for each measure; those that the trace does not count are left out where nothing changes them."""
    for measure, bounds in predicted.items():
        seen = observed.get(measure)
        if seen is None and all(bound == UNCHANGED for bound in bounds):
            continue
        wide = bounds * len(seen) if seen is not None and len(bounds) == 1 else bounds
        holds = seen is not None and len(wide) == len(seen) and all(n in b for n, b in zip(seen, wide, strict=True))
        declared = tuple((float(bound.low), float(bound.high)) for bound in bounds)
        numbers = None if seen is None else tuple(map(float, seen))
        yield Row(measure=measure, declared=declared, observed=numbers, holds=holds)


def _expected(
    dimensions: Dimensions, items: tuple[Item, ...], plan: Plan, observed: Observed, without: Part | None = None
) -> Bounds:
    """The prediction for a plan, perhaps without one of the declarations."""
    stack = []
    for index, (item, setting) in enumerate(zip(items, plan.settings, strict=True)):
        technique, at = item.technique, item.places
        if without and without.item == index:
            declared = _left_out(getattr(technique, without.kind), without.index)
            technique = technique.model_copy(update={without.kind: declared})
            at = _left_out(at, without.index) if without.kind == "effects" else at
        stack.append(Member(technique, at, setting))
    return expected(dimensions, stack, observed)


def _left_out(records: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return records[:index] + records[index + 1 :]


def _parts(items: tuple[Item, ...]) -> Iterator[Part]:
    """Every declaration that a trace can show."""
    for at, item in enumerate(items):
        for index in range(len(item.technique.effects)):
            yield Part(item=at, kind="effects", index=index)
        for index, overhead in enumerate(item.technique.overheads):
            if overhead.attention_rows is not None:
                yield Part(item=at, kind="overheads", index=index)


def _same_answer(job: StackJob, lvlm: LVLM, plan: Plan, request: Request, result: Result) -> Iterator[Row]:
    """Whether greedy speculation gives the target's own answer, where a technique alone declares that."""
    effects = [effect for item in job.items for effect in item.technique.effects]
    exact = any(isinstance(effect, Speculation) and effect.exact != "no" for effect in effects)
    if not exact or len(job.items) > 1 or request.temperature:
        return
    differ = answers_differ(result, _baseline(plan.shape, job.dtype, job.device), TOLERANCE[lvlm.dtype])
    same = float(differ is None)
    yield Row(measure="speculation: same greedy answer", declared=((1.0, 1.0),), observed=(same,), holds=bool(same))


@cache
def _model(preset: str, dtype: str, device: str) -> LVLM:
    return LVLM.random(preset, dtype=getattr(torch, dtype), device=device)


def _request(lvlm: LVLM, shape: Shape) -> Request:
    return random_request(
        lvlm.config,
        frames=shape.frames,
        text_tokens=shape.text_tokens,
        max_new_tokens=shape.output_tokens,
        temperature=shape.temperature,
    )


@cache
def _baseline(shape: Shape, dtype: str, device: str) -> Result:
    lvlm = _model(shape.preset, dtype, device)
    return lvlm.run(_request(lvlm, shape))
