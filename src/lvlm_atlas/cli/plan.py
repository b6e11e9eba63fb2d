"""Prints a plan: the stacks worth having, what sources report of their techniques, and why the others lost."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import typer

from lvlm_atlas.cli.json_text import as_json
from lvlm_atlas.cli.options import Report
from lvlm_atlas.cli.plain import csv_text, narrow, wrapped
from lvlm_atlas.cli.terminal import write
from lvlm_atlas.graph.result_words import sentence
from lvlm_atlas.graph.results import ReportedResult
from lvlm_atlas.planner.plan import Option, Plan
from lvlm_atlas.planner.quality import nearest
from lvlm_atlas.planner.shortage import misfit
from lvlm_atlas.planner.warnings import vision_left
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.roofline.summary import head, subject
from lvlm_atlas.roofline.units import number, seconds
from lvlm_atlas.rows import markdown
from lvlm_atlas.specs.answers import Kept
from lvlm_atlas.specs.joint import KeptTogether

SHOWN = 2
"""Results that a page shows of each technique; JSON has all."""
MOST = 12
"""Reasons that a page shows; JSON has all."""
COLUMNS = ("#", "goal", "gain", *STAGES, "takes longest", "risk")


def print_plan(plan: Plan, report: Report, *, root: Path) -> None:
    """Print a plan, as JSON with the digest of the catalog that it rests on.

    Raises:
        Exit: limits were given, and no stack keeps them all.
    """
    printed = {Report.table: _page, Report.md: _markdown, Report.csv: _csv}
    if report is Report.json:
        from lvlm_atlas.atlas.edition import digest

        text = as_json({**plan.to_dict(), "data": digest(root)})
    else:
        text = printed[report](plan)
    (write if report is Report.table else sys.stdout.write)(text + "\n")
    if not any(option.meets for option in (plan.baseline, *plan.front)):
        raise typer.Exit(1)


def _page(plan: Plan) -> str:
    parts = ["\n".join(map(wrapped, head(plan.baseline.estimate, _title(plan)))), _table(plan)]
    for heading, lines in _sections(plan):
        parts.append("\n".join([wrapped(heading), *(wrapped(line, "- ") for line in lines)]))
    return "\n\n".join(parts)


def _markdown(plan: Plan) -> str:
    columns = ("#", "stack", *(_goal(plan, name) for name in COLUMNS[1:]))
    rows = [
        (number, f"{option.label}{''.join(f'; {note}' for note in _notes(option))}", *cells)
        for option, (number, *cells) in zip((plan.baseline, *plan.front), _rows(plan), strict=True)
    ]
    parts = [f"**{_title(plan)}**", markdown(columns, rows)]
    parts += [f"{heading}\n\n" + "\n".join(f"- {line}" for line in lines) for heading, lines in _sections(plan)]
    return "\n\n".join(parts)


def _csv(plan: Plan) -> str:
    return csv_text(plan.records())


def _title(plan: Plan) -> str:
    goal = plan.goal
    wanted = f"most {goal.unit}" if goal.more else f"least {goal.name}"
    return f"{subject(plan.baseline.estimate)}: {wanted}, predicted"


def _goal(plan: Plan, name: str) -> str:
    return plan.goal.name if name == "goal" else name


def _table(plan: Plan) -> str:
    """The stacks; under the numbers of each stands what it is, since names are longer than a column."""
    columns = tuple(_goal(plan, name) for name in COLUMNS)
    left = ("takes longest", "risk")
    lines = narrow(columns, list(_rows(plan)), left=left, dropped=("takes longest", *STAGES)).splitlines()
    out = lines[:2]
    for option, line in zip((plan.baseline, *plan.front), lines[2:], strict=True):
        label = option.label if option.estimate.stack else "no technique"
        out += [line, *(wrapped(text, "   ") for text in (label, *_notes(option)))]
    return "\n".join(out)


def _rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    before = plan.baseline.estimate
    for rank, option in enumerate((plan.baseline, *plan.front)):
        estimate = option.estimate
        value = plan.goal.shown(plan.goal.of(estimate))
        if not rank:
            times = [seconds(stage.time_s) for stage in estimate.stages.values()]
            yield "0", value, "", *times, before.bottleneck, ""
            continue
        moved = estimate.bottleneck if estimate.bottleneck == before.bottleneck else f"→ {estimate.bottleneck}"
        gains = [_ratio(plan.gain(option, name)) for name in (plan.goal.name, *STAGES)]
        yield str(rank), value, *gains, moved, option.risk


def _notes(option: Option) -> Iterator[str]:
    """What must be known of a stack besides its numbers."""
    if short := misfit(option.estimate):
        yield short
    yield from (str(limit) for limit in option.limits)
    model = option.estimate.model.id
    if kept := [_kept(id_, result, model) for id_, result in option.quality.items()]:
        yield f"quality kept, reported of each alone: {', '.join(kept)}"
    if option.answers:
        said = ", ".join(_answers(id_, kept, option.elsewhere.get(id_, {})) for id_, kept in option.answers.items())
        yield f"answers kept, measured of each alone on small models trained here: {said}"
    if option.together:
        yield _together_kept(option.together)
    yield from option.warnings
    if unknown := [f"{pair.one} × {pair.two}" for pair in option.pairs if pair.verdict == "unknown"]:
        yield f"no source shows that they work together: {', '.join(unknown)}"


def _answers(id_: str, kept: Kept, elsewhere: Mapping[str, Kept]) -> str:
    """What a technique keeps of the answers, and in brackets what it does on other architectures."""
    others = "".join(f" ({name} {other.share:.0%})" for name, other in elsewhere.items())
    return f"{id_} {kept.share:.0%} ± {kept.margin:.0%}{others}"


def _together_kept(kept: KeptTogether) -> str:
    """What a stack keeps of the answers, and what that rests on."""
    if kept.records:
        rests = f"the sum of these losses, corrected by what was measured together: {', '.join(kept.records)}"
    else:
        rests = "the sum of these losses"
    if kept.unmeasured:
        rests += f"; not measured: {', '.join(f'{one} × {two}' for one, two in kept.unmeasured)}"
    return f"answers kept together, expected: {kept.share:.0%} ± {kept.margin:.0%}, {rests}"


def _kept(id_: str, result: ReportedResult | None, model: str) -> str:
    """The share of its quality that a technique keeps, and of which benchmark and model, unless of the planned one."""
    if result is None or result.percent_of_baseline is None:
        return f"{id_} no number"
    on = [result.measure] * (result.kind == "benchmark") + [result.model] * (result.model != model)
    return f"{id_} {result.percent_of_baseline:.3g} %" + (f" ({' of '.join(on)})" if on else "")


def _sections(plan: Plan) -> Iterator[tuple[str, list[str]]]:
    """Headings with their lines."""
    if not plan.front:
        yield "No stack is better than none.", []
    elif not any(option.meets for option in plan.front):
        yield "No stack keeps every limit; these come near.", []
    if together := list(_together(plan)):
        yield "Known of techniques that share a stack here:", together
    if engines := list(dict.fromkeys(each for option in plan.front for each in option.shipped)):
        yield "In engines and toolkits:", engines
    if reported := list(_reported(plan)):
        yield "Reported by sources, of each technique alone:", reported
    reasons = {each.what: each.why for each in reversed((*plan.unused, *plan.runners_up))}
    lost = [f"{what}: {why}" for what, why in reversed(reasons.items())]
    if lost:
        yield "Searched, and lost:", _some(lost)
    if pairs := [f"{each.what}: {each.why}" for each in plan.conflicts]:
        yield "Never in one stack:", _some(pairs)
    if barred := [f"{each.what}: {each.why}" for each in plan.left_out]:
        yield "Not searched:", _some(barred)
    assumptions = dict.fromkeys(
        text for option in plan.front for applied in option.estimate.stack for text in applied.assumptions
    )
    general = "for the engine's own assumptions see `lvlm-atlas estimate` or --format json"
    yield (
        f"Predicted, not measured: {plan.searched:,} stacks, {plan.settings}; {general}.",
        [*assumptions],
    )


def _together(plan: Plan) -> Iterator[str]:
    """What the graph says of each pair of techniques in a stack that is shown, once."""
    pairs = {(pair.one, pair.two): pair.edges for option in plan.front for pair in option.pairs}
    for (one, two), edges in pairs.items():
        for edge in edges:
            yield f"{one} × {two}: {edge.kind}: {edge.reason.rstrip('.')} [{edge.evidence}: {edge.source}]"


def _reported(plan: Plan) -> Iterator[str]:
    """A few results of each technique: of the planned model first, then nearest to the share of tokens that is left."""
    base = plan.baseline.estimate
    shown: set[str] = set()
    for option in plan.front:
        for id_, results in option.reported.items():
            if id_ in shown:
                continue
            shown.add(id_)
            if not results:
                yield f"{id_}: nothing is reported in its entry"
            left = vision_left(base, option.estimate)
            for each in nearest(results, base.model.id, left)[:SHOWN]:
                yield f"{id_}: {sentence(each)} [{each.paper}, {each.place}]"
            if len(results) > SHOWN:
                yield f"{id_}: {len(results) - SHOWN} more: lvlm-atlas results {id_}"


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - MOST
    return lines if more <= 0 else [*lines[:MOST], f"and {more} more: --format json"]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} ×" if value < 10 else f"{number(value)} ×"
