"""Runs stacks and holds what their traces count against what their entries predict. A worker process does it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import torch

from lvlm_atlas.lab.built import built, forget
from lvlm_atlas.lab.checks import TOLERANCE, answers_differ
from lvlm_atlas.lab.device import DeviceRun
from lvlm_atlas.lab.dimensions import dimensions_of
from lvlm_atlas.lab.expectation import Bounds, Interval, Member, Observed, expected
from lvlm_atlas.lab.verification import Item, Outcome, Part, Plan, Row, Shape, StackAnswer, StackJob, counted
from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.lvlm import LVLM, Refusal, Request, Result, Trace, random_request
from lvlm_atlas.roofline.dimensions import Dimensions
from lvlm_atlas.schema.effect import Speculation
from lvlm_atlas.schema.record import Setting


def prepare(job: StackJob) -> None:
    """Make the models that jobs like this one share."""
    for preset, on_device in dict.fromkeys((plan.shape.preset, plan.shape.on_device) for plan in job.plans):
        if not on_device:
            _model(preset, job.dtype, job.device)


def reset() -> None:
    """Forget what `prepare` and the jobs made."""
    _model.cache_clear()
    _baseline.cache_clear()
    _ran.cache_clear()
    forget()


def carry_out(job: StackJob) -> StackAnswer:
    """Run the plans of the job and compare."""
    outcomes: list[Outcome] = []
    for plan in job.plans:
        outcomes += _outcomes(job, plan)
        if sum(bool(outcome.rows) for outcome in outcomes) == job.enough:
            break
    return StackAnswer(job=job, outcomes=tuple(outcomes))


def _outcomes(job: StackJob, plan: Plan) -> Iterator[Outcome]:
    """What came of a plan, and of its spare settings until one is not refused."""
    for settings in (plan.settings, *plan.spares):
        outcome = _outcome(job, Plan(settings=settings, shape=plan.shape))
        yield outcome
        if outcome.refused is None:
            return


def _outcome(job: StackJob, plan: Plan) -> Outcome:
    try:
        references = tuple(str(item.technique.reference) for item in job.items)
        lvlm, request, counts = _ran(plan.model_dump_json(), references, job.dtype, job.device)
    except Refusal as error:
        return Outcome(plan=plan, refused=f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - whatever a reference raises is its result
        return Outcome(plan=plan, crashed=f"{type(error).__name__}: {error}")
    declared = {effect.quantity for item in job.items for effect in item.technique.effects}

    def rows(without: Part | None = None) -> Iterator[Row]:
        first: tuple[Dimensions, Observed] | None = None
        for number, (dimensions, each_observed, result) in enumerate(counts):
            for observed in each_observed:
                bounds = _expected(dimensions, job.items, plan, observed, without, first)
                for row in compare(bounds, observed, declared):
                    yield row.model_copy(update={"measure": f"{row.measure}: round {number + 1}"}) if number else row
            if result.rounds:
                total = (float(result.trace.output_tokens),)
                length = _expected(dimensions, job.items, plan, {}, without)["output-tokens"]
                yield from compare({ALL_ROUNDS: length}, {ALL_ROUNDS: total}, declared)
            first = first or (dimensions, each_observed[0])

    try:
        all_rows = tuple(rows())
        bites = tuple(
            part for part in (_parts(job.items) if job.ablate else ()) if not all(row.holds for row in rows(part))
        )
    except ValueError as error:
        return Outcome(plan=plan, crashed=f"a declared amount fails: {error}")
    _, _, result = counts[0]
    return Outcome(plan=plan, rows=(*all_rows, *_same_answer(job, lvlm, plan, request, result)), bites=bites)


Held = tuple[tuple[float, float], ...]
"""Vision and text entries a head that each layer holds; empty: there are none."""
Counts = tuple[Dimensions, list[Observed], Result]
"""What was counted of each run that an answer took, with the sizes of its request."""
RUNS_KEPT = 24
"""Runs that are remembered, so that one plan under several declarations is run once."""


@lru_cache(RUNS_KEPT)
def _ran(plan_json: str, references: tuple[str, ...], dtype: str, device: str) -> tuple[LVLM, Request, list[Counts]]:
    """The model of a plan, its first request, and what each of its rounds counted.

    Args:
        plan_json: the plan; as JSON 1, 1.0 and true are told apart.
        references: `module:Class` of each technique.
        dtype: type of the weights.
        device: where to run.
    """
    plan = Plan.model_validate_json(plan_json)
    settings = [*zip(references, plan.settings, strict=True)]
    if plan.shape.on_device:
        lvlm, request, result, syncs = _run_on_device(plan.shape, settings)
        rounds: list[tuple[Request, Result, Held]] = [(request, result, ())]
    else:
        lvlm, syncs = _model(plan.shape.preset, dtype, device), {}
        stack = [built(reference, setting, lvlm) for reference, setting in settings]
        rounds = [*_rounds(lvlm, plan.shape, stack)]
    counts = [_counts(dimensions_for(lvlm, request, held), result, syncs) for request, result, held in rounds]
    return lvlm, rounds[0][0], counts


def _run_on_device(
    shape: Shape, settings: Sequence[tuple[str, Mapping[str, Setting]]]
) -> tuple[LVLM, Request, Result, Observed]:
    """A run as on a GPU, and how often its techniques made the host wait."""
    lvlm = LVLM.random(shape.preset, dtype=torch.bfloat16)
    request = _request(lvlm, shape)
    stack = [built(reference, setting, lvlm) for reference, setting in settings]
    with DeviceRun(stack) as run:
        result = run.place(lvlm).run(request, stack)
    rounds = result.trace.target_passes
    waits = {
        "overhead: host syncs": (len(run.waits_before),),
        "overhead: host syncs a step": (len(run.waits_decoding) / rounds,) if rounds else (),
    }
    return lvlm, request, result, waits


def _rounds(lvlm: LVLM, shape: Shape, stack: Sequence[Any]) -> Iterator[tuple[Request, Result, Held]]:
    """The rounds of a shape, each with what the cache held before it."""
    if shape.rounds == 1:
        request = _request(lvlm, shape)
        yield request, lvlm.run(request, stack), ()
        return
    session, held = lvlm.stream(stack, temperature=shape.temperature), Held()
    for number in range(shape.rounds):
        request = _request(lvlm, shape, seed=number)
        result = session.ask(request.prompt_N, request.max_new_tokens, frames=request.frames_F3HW)
        yield request, result, held
        held = tuple(_held(session.cache, layer) for layer in range(len(session.cache.stores)))


def _counts(dimensions: Dimensions, result: Result, syncs: Observed) -> Counts:
    traces = [each.result.trace for each in result.rounds] or [result.trace]
    return dimensions, [{**observe(trace, dimensions), **syncs} for trace in traces], result


def _held(cache: Cache, layer: int) -> tuple[float, float]:
    entries = cache.held(layer)
    vision = float(entries.vision_BGS.sum(-1).float().mean())
    return vision, cache.stores[layer].length - vision


def dimensions_for(lvlm: LVLM, request: Request, held: Held = ()) -> Dimensions:
    """The model and the request as the engine sees them, on a cache that holds so much."""
    dimensions = dimensions_of(
        lvlm.config, frames=len(request.frames_F3HW), text_tokens=len(request.text_N),
        output_tokens=request.max_new_tokens, element_byte=lvlm.dtype.itemsize,
    )  # fmt: skip
    return replace(dimensions, held=held)


ALL_ROUNDS = "output-tokens: all rounds"
"""The measure of an answer that took several runs."""
SHOWN = frozenset({
    "frames", "encoder.tokens", "vision-tokens", "llm.vision-tokens", "attention.density", "overhead", "kv.tokens",
    "kv.bits", "output-tokens", "speculation",
})  # fmt: skip
"""Quantities that have rows in every report. Others have them where something is declared of them, or is wrong."""
IN_DETAIL = frozenset({"kv.tokens: most while decoding", "overhead: attention scores of steps"})
"""Measures of a quantity that is shown which have rows only as those of the others do."""


def observe(trace: Trace, dimensions: Dimensions) -> Observed:
    """What a trace says of each measure; those it does not count are missing.

    A measure of decoding steps is empty where there are none. Tokens that ask nothing (`Sequence.silent`) are vision
    tokens that stand first, and pass no MLP either.
    """
    # In a session the scores of a round's own tokens: those with the cache are computed, whatever is chosen.
    earlier = trace.cached_score_entries if dimensions.held else [0] * len(trace.score_entries)
    silent = trace.llm_silent_tokens
    dense = (
        dimensions.heads * (n * (n + 1) - quiet * (quiet + 1)) // 2
        for n, quiet in zip(trace.llm_tokens, silent, strict=True)
    )
    rounds = trace.target_passes
    vision = tuple(trace.llm_vision_tokens)
    asking = tuple(all_ - quiet for all_, quiet in zip(vision, silent, strict=True))
    attention = zip(trace.encoder_attention_flop, trace.encoder_own_attention_flop, strict=True)
    density = tuple(flop / own for flop, own in attention)
    modality_known = len(trace.kv_vision_entries) == len(trace.kv_entries)
    counted = {"encoder.flop": trace.encoder_flop, "adapter.flop": trace.adapter_flop}
    exchanged = {measure: (flop,) for measure, flop in counted.items() if flop is not None}
    return {
        "frames": (trace.frames,),
        "pixels": (trace.pixels / trace.pixels_in,),
        **exchanged,
        **({} if "encoder.flop" in exchanged else {"encoder.density": density or (1.0,) * dimensions.encoder_layers}),
        "encoder.tokens": tuple(trace.encoder_tokens),
        "vision-tokens": vision[:1],  # nothing prunes before layer 0: there is no attention yet
        "text-tokens": (trace.llm_tokens[0] - vision[0],),
        "llm.vision-tokens": vision,
        "llm.vision-queries": asking,
        "llm.vision-mlp": asking,
        "llm.vision-tokens: with text": tuple(trace.llm_tokens),
        "attention.density": tuple(
            (s - old) / all_ for s, old, all_ in zip(trace.score_entries, earlier, dense, strict=True)
        ),
        "overhead: attention scores": (trace.probe_entries,),
        "overhead: attention scores of steps": (trace.step_probe_entries,),
        "kv.tokens": tuple(trace.kv_entries),
        **({"kv.tokens: vision": tuple(trace.kv_vision_entries)} if modality_known else {}),
        "kv.tokens: most while decoding": tuple(trace.kv_most_entries),
        "kv.layers": (trace.kv_layers,),
        **({"kv.state": tuple(map(float, trace.kv_state))} if any(trace.kv_state) else {}),
        "kv.resident": (trace.kv_resident_byte / sum(trace.kv_byte),) if any(trace.kv_byte) else (),
        "kv.resident: fetched": (trace.kv_fetched / rounds,) if rounds else (),
        "kv.read": tuple(share / rounds for share in trace.kv_read),
        "kv.bits: bytes": tuple(trace.kv_byte),
        "kv.bits: bytes at the end": (trace.kv_byte_end,),
        "llm.depth": (trace.layer_runs / rounds,) if rounds else (),
        "output-tokens": (trace.output_tokens,),
        "speculation: draft length": tuple(trace.draft_lengths),
        "speculation: draft nodes": tuple(trace.draft_nodes),
        "speculation: draft passes": (trace.draft_passes / rounds,) if rounds else (),
        "speculation: draft vision tokens": (max(0, trace.draft_tokens - dimensions.text_tokens),),
        "speculation: accepted": tuple(trace.accepted_lengths),
        "speculation: target passes": (rounds,),
    }


def compare(predicted: Bounds, observed: Observed, declared: Collection[str] = ()) -> Iterator[Row]:
    """A row for each measure that is shown in every report, is declared, or does not hold.

    A measure that the trace does not count does not hold where something is declared of its quantity, and is left out
    elsewhere.

    Args:
        predicted: bounds by measure.
        observed: what the trace counted.
        declared: quantities of which the stack's effects declare something.
    """
    for measure, bounds in predicted.items():
        quantity = measure.split(":")[0]
        required = quantity in declared or (quantity in SHOWN and measure not in IN_DETAIL)
        numbers = observed.get(measure)
        holds = numbers is not None and _within(numbers, bounds)
        if required or (numbers is not None and not holds):
            yield Row(
                measure=measure,
                declared=tuple((float(bound.low), float(bound.high)) for bound in bounds),
                observed=None if numbers is None else tuple(map(float, numbers)),
                holds=holds,
            )


def _within(numbers: tuple[float, ...], bounds: tuple[Interval, ...]) -> bool:
    """Whether each number lies within its bounds, or all within the only ones; nothing lies outside of any."""
    wide = bounds * len(numbers) if len(bounds) == 1 else bounds
    return not numbers or (
        len(wide) == len(numbers) and all(number in bound for number, bound in zip(numbers, wide, strict=True))
    )


def _expected(
    dimensions: Dimensions,
    items: tuple[Item, ...],
    plan: Plan,
    observed: Observed,
    without: Part | None = None,
    first: tuple[Dimensions, Observed] | None = None,
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
    return expected(dimensions, stack, observed, first)


def _left_out(records: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return records[:index] + records[index + 1 :]


def _parts(items: tuple[Item, ...]) -> Iterator[Part]:
    """Every declaration that a trace can show."""
    for at, item in enumerate(items):
        for index in range(len(item.technique.effects)):
            yield Part(item=at, kind="effects", index=index)
        for index, overhead in enumerate(item.technique.overheads):
            if counted(overhead):
                yield Part(item=at, kind="overheads", index=index)


def _same_answer(job: StackJob, lvlm: LVLM, plan: Plan, request: Request, result: Result) -> Iterator[Row]:
    """Whether greedy speculation gives the target's own answer, where a technique alone declares that."""
    effects = [effect for item in job.items for effect in item.technique.effects]
    exact = any(isinstance(effect, Speculation) and effect.exact != "no" for effect in effects)
    if not exact or len(job.items) > 1 or request.temperature or plan.shape.on_device:
        return
    differ = answers_differ(result, _baseline(plan.shape, job.dtype, job.device), TOLERANCE[lvlm.dtype])
    same = float(differ is None)
    yield Row(measure="speculation: same greedy answer", declared=((1.0, 1.0),), observed=(same,), holds=bool(same))


@cache
def _model(preset: str, dtype: str, device: str) -> LVLM:
    return LVLM.random(preset, dtype=getattr(torch, dtype), device=device)


def _request(lvlm: LVLM, shape: Shape, seed: int = 0) -> Request:
    return random_request(
        lvlm.config,
        frames=shape.frames,
        text_tokens=shape.text_tokens,
        max_new_tokens=shape.output_tokens,
        temperature=shape.temperature,
        seed=seed,
    )


@cache
def _baseline(shape: Shape, dtype: str, device: str) -> Result:
    lvlm = _model(shape.preset, dtype, device)
    return lvlm.run(_request(lvlm, shape))
