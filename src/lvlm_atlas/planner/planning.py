"""Makes a plan: chooses what is searched, searches it, and says what came of everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import combinations

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.results import results_of
from lvlm_atlas.planner.fit import misfit
from lvlm_atlas.planner.front import STEP, Point, pareto, steps
from lvlm_atlas.planner.metric import Metric, checked_limit, metric
from lvlm_atlas.planner.plan import Limit, Lost, Option, Plan, Together
from lvlm_atlas.planner.risk import RISKS, risk
from lvlm_atlas.planner.search import Candidate, Found, Search, candidate
from lvlm_atlas.roofline.costs import Cost, Costs
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.roofline.units import share
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.specs.fits import problem
from lvlm_atlas.specs.stack import Choice, milder, parse

RUNNERS_UP = 5
"""Stacks besides the front of which the plan says why they are not on it."""


class Planning:
    """One plan on its way.

    Args:
        kb: techniques and their relations.
        baseline: the request without techniques.
        goal: name of the metric to bring down.
        slo: limits by metric, in its unit.
        training: what may be trained at most, as the vocabulary `training` orders it; None: anything.
        most: techniques in a stack, at most.
        require: a query; every stack has a technique that it finds.
        exclude: a query; no stack has a technique that it finds.
        worst: the largest risk accepted.
        also: metrics that count for the front beside the goal.
        tried: techniques at settings that take the place of their default.
        mild: whether to search settings halfway to the neutral one too.

    Raises:
        AtlasError: a word is unknown, a query cannot be answered, or a number is out of range.
    """

    def __init__(
        self, kb: KnowledgeBase, baseline: Estimate, goal: str, *, slo: Mapping[str, float], training: str | None,
        most: int, require: str | None, exclude: str | None, worst: str, also: Sequence[str], tried: Sequence[str],
        mild: bool,
    ) -> None:  # fmt: skip
        if not 1 <= most <= 6:
            raise AtlasError(f"the number of techniques in a stack is {most}; give one from 1 to 6")
        if worst not in RISKS:
            raise AtlasError(f"no risk {worst!r}; {suggestion(worst, RISKS)}")
        if training is not None and training not in (known := [term.id for term in kb.atlas.terms("training")]):
            raise AtlasError(f"no training {training!r}; {suggestion(training, known)}")
        device, deployment, output = baseline.device, baseline.deployment, baseline.workload.output_tokens
        self.kb, self.baseline, self.most = kb, baseline, most
        self.goal, *self.also = (metric(name, device, deployment, output=output) for name in (goal, *also))
        self.limits = [
            (metric(name, device, deployment, output=output), checked_limit(name, limit)) for name, limit in slo.items()
        ]
        self.training, self.worst, self.mild = training, RISKS.index(worst), mild
        self.required = None if require is None else _asked(kb, "--require", require)
        self.excluded = set() if exclude is None else _asked(kb, "--exclude", exclude)
        self.tried: dict[str, list[Choice]] = {}
        for each in (parse(kb, spec) for spec in tried):
            self.tried.setdefault(each.technique.id, []).append(each)
        self.left_out: list[Lost] = []
        self.hopeful: list[Found] = []
        """All stacks, those first whose goal has the lowest bound."""
        self.floors: dict[int, float] = {}
        """These bounds."""

    def plan(self) -> Plan:
        """The plan.

        Raises:
            AtlasError: no stack fits on the device.
        """
        found = list(self.search.stacks(self.most, self.worst, self._needed()))
        floors = {each.stack: getattr(self._floor(each.stack), self.goal.field) for each in found}
        self.hopeful = sorted(found, key=lambda each: (floors[each.stack], each.count, each.stack))
        self.floors = floors
        front, beaten = self._front(found, strict=True)
        if not front:  # where no stack keeps the limits, those of the front say how near one comes
            front, beaten = self._front(found, strict=False)
        if not front:
            raise AtlasError(f"{misfit(self.baseline)}; no stack changes that")
        by_stack = {each.stack: each for each in found}
        ordered = sorted((each for each in front if each.stack), key=self._order)
        used = {id_ for each in ordered for id_ in self._ids(each)}
        return Plan(
            goal=self.goal,
            baseline=self._option(0),
            front=tuple(self._option(each.stack) for each in ordered),
            runners_up=tuple(self._runners_up(by_stack, beaten)),
            unused=tuple(self._unused(by_stack, beaten, used)),
            conflicts=tuple(self._conflicts()),
            left_out=tuple(self.left_out),
            searched=len(found),
            settings=self._settings(),
        )

    def _front(self, found: Sequence[Found], *, strict: bool) -> tuple[list[Found], dict[int, int]]:
        """The front, and for each stack that is not on it one that beats it; `strict` if limits count."""
        by_stack = {each.stack: each for each in found}

        def exact(stack: int) -> Point | None:
            cost = self.costs.of(stack)
            if not self._fits(cost) or (strict and self._over(cost)):
                return None
            return self._point(by_stack[stack], cost)

        least = ((self._point(each, self._floor(each.stack)), each.stack) for each in self.hopeful)
        front, beaten = pareto(least, exact)
        return [by_stack[stack] for stack in front], beaten

    def _floor(self, stack: int) -> Cost:
        """What a stack costs at least."""
        memory = any(each.field == "device_byte" for each in (self.goal, *self.also))
        return self.costs.floor(stack, memory=memory)

    def _fits(self, cost: Cost) -> bool:
        return cost.device_byte <= self.baseline.device.memory_byte

    def _best(self, among: Callable[[Found], bool], most: int) -> list[Found]:
        """The stacks that fit and are best at the goal; of most others only the bound is looked at."""
        best: list[tuple[tuple[float, ...], Found]] = []
        base = getattr(self.base, self.goal.field)
        for each in self.hopeful:
            # Within a step risk and number decide, so only a bound beyond the step of the last ends the search.
            if len(best) == most and steps(self.floors[each.stack], base) > best[-1][0][0]:
                break
            if among(each) and self._fits(self.costs.of(each.stack)):
                best.append((self._rank(each), each))
                best = sorted(best, key=lambda pair: pair[0])[:most]
        return [each for _, each in best]

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Techniques at settings, in pipeline order."""
        found = []
        for technique in self.kb.atlas.techniques.values():
            if why := self._barred(technique):
                self.left_out.append(Lost(technique.id, "left-out", why))
                continue
            choices = self.tried.get(technique.id) or [Choice(technique)]
            found += [candidate(self.kb, choice) for choice in choices]
            if self.mild and technique.id not in self.tried and (choice := milder(technique)):
                found.append(candidate(self.kb, choice, milder=True))
        return sorted(found, key=lambda each: (each.applied.order, each.applied.id))

    @cached_property
    def search(self) -> Search:
        """The search over them."""
        return Search(self.kb, self.candidates)

    @cached_property
    def costs(self) -> Costs:
        """What their stacks cost."""
        base = self.baseline
        applied = [each.applied for each in self.candidates]
        return Costs(base.model, base.device, base.workload, base.deployment, applied)

    @cached_property
    def base(self) -> Cost:
        """What the empty stack costs."""
        return self.costs.of(0)

    def _barred(self, technique: Technique) -> str | None:
        """Why a technique is not searched."""
        if technique.id in self.excluded:
            return "--exclude finds it"
        order = [term.id for term in self.kb.atlas.terms("training")]
        if self.training and order.index(technique.training) > order.index(self.training):
            return f"needs training: {technique.training}"
        if risk(technique) > self.worst:
            return f"its risk is `{RISKS[risk(technique)]}`"
        return problem(technique, self.baseline.model, self.baseline.workload)

    def _needed(self) -> int:
        if self.required is None:
            return 0
        needed = sum(1 << i for i, each in enumerate(self.candidates) if each.applied.id in self.required)
        if not needed:
            barred = [each.what for each in self.left_out if each.what in self.required]
            why = f"{barred[0]} is left out" if barred else "it finds no technique"
            raise AtlasError(f"--require leaves nothing to search: {why}; ask for less")
        return needed

    def _rank(self, found: Found) -> tuple[float, ...]:
        """The goal first, in the steps that count; among equals less risk, fewer techniques, less time."""
        cost, field = self.costs.of(found.stack), self.goal.field
        step = steps(getattr(cost, field), getattr(self.base, field))
        return step, found.risk, found.full, found.count, getattr(cost, field), cost.total_s, found.stack

    def _order(self, found: Found) -> tuple[float, ...]:
        """Where limits are broken, nearest to them first; then best at the goal."""
        cost = self.costs.of(found.stack)
        return self._excess(cost), getattr(cost, self.goal.field), *self._rank(found)

    def _point(self, found: Found, cost: Cost) -> Point:
        fields = (self.goal.field, *(each.field for each in self.also))
        figures = (steps(getattr(cost, field), getattr(self.base, field)) for field in fields)
        return (self._excess(cost), *figures, found.risk, found.full, found.count)

    def _excess(self, cost: Cost) -> int:
        """Steps by which the worst broken limit is passed; 0 where all are kept."""
        return max([0, *(steps(self._value(each, cost), most) for each, most in self.limits)])

    def _ids(self, found: Found) -> list[str]:
        return [each.applied.id for i, each in enumerate(self.candidates) if found.stack >> i & 1]

    def _label(self, found: Found) -> str:
        chosen = [each.applied.label for i, each in enumerate(self.candidates) if found.stack >> i & 1]
        return " + ".join(chosen) or "no technique"

    def _value(self, each: Metric, cost: Cost) -> float:
        """A metric of a cost, in its unit: in proportion to that of the request without techniques."""
        now, before = getattr(cost, each.field), getattr(self.base, each.field)
        return each.of(self.baseline) * now / before if before else 0.0

    def _over(self, cost: Cost) -> Limit | None:
        """The first limit that is broken."""
        for each, most in self.limits:
            limit = Limit(each, most, self._value(each, cost))
            if not limit.met:
                return limit
        return None

    def _option(self, stack: int) -> Option:
        chosen = [each for i, each in enumerate(self.candidates) if stack >> i & 1]
        base = self.baseline
        applied = [each.applied for each in chosen]
        found = estimate(base.model, base.device, base.workload, base.deployment, applied) if chosen else base
        pairs = []
        for one, two in combinations((each.applied.id for each in chosen), 2):
            verdict = self.search.verdicts[frozenset((one, two))]
            pairs.append(Together(one, two, verdict.value, tuple(edge.reason for edge in verdict.edges)))
        at = max((each.risk for each in chosen), default=0)
        return Option(
            found=found,
            risk="unknown" if any(pair.verdict == "unknown" for pair in pairs) else RISKS[at],
            limits=tuple(Limit(each, most, each.of(found)) for each, most in self.limits),
            pairs=tuple(pairs),
            reported={each.applied.id: results_of(self.kb.atlas, each.choice.technique) for each in chosen},
        )

    def _runners_up(self, by_stack: Mapping[int, Found], beaten: Mapping[int, int]) -> Iterable[Lost]:
        def lost(found: Found) -> bool:
            return found.stack != 0 and (found.stack in beaten or self._over(self.costs.of(found.stack)) is not None)

        for each in self._best(lost, RUNNERS_UP):
            if why := self._lost(each, by_stack, beaten):
                yield Lost(self._label(each), *why)

    def _lost(self, found: Found, by_stack: Mapping[int, Found], beaten: Mapping[int, int]) -> tuple[str, str] | None:
        """Why a stack is not on the front; None if it is."""
        if found.stack in beaten:
            by = by_stack[beaten[found.stack]]
            mine, theirs = (self.costs.of(each.stack) for each in (found, by))
            same = self._rank(found)[0] == self._rank(by)[0]
            values = [self.goal.shown(self._value(self.goal, cost)) for cost in (theirs, mine)]
            against = f"{values[0]} against {values[1]}"
            near = f"{self.goal.name} within {share(STEP)}" + ("" if values[0] == values[1] else f", {against}")
            less = [near if same else f"{self.goal.name} {against}"]
            if (fewer := found.count - by.count) > 0:
                less.append("one technique fewer" if fewer == 1 else f"{fewer} techniques fewer")
            if by.risk < found.risk:
                less.append(f"risk `{RISKS[by.risk]}` instead of `{RISKS[found.risk]}`")
            return "dominated", f"dominated by {self._label(by)}: {', '.join(less)}"
        limit = self._over(self.costs.of(found.stack))
        return ("limit", str(limit)) if limit else None

    def _unused(self, by_stack: Mapping[int, Found], beaten: Mapping[int, int], used: set[str]) -> Iterable[Lost]:
        """Each technique that is in no stack of the front, with the reason."""
        for id_ in dict.fromkeys(each.applied.id for each in self.candidates):
            if id_ in used:
                continue
            alone = sum(1 << i for i, each in enumerate(self.candidates) if each.applied.id == id_)
            bits = [1 << i for i in range(len(self.candidates)) if alone >> i & 1]
            solo = min((self.costs.of(bit) for bit in bits), key=lambda cost: getattr(cost, self.goal.field))
            if why := self._idle(solo):
                yield Lost(id_, "no-gain", why)
                continue
            best = self._best(lambda found, mine=alone: bool(found.stack & mine), 1)  # type: ignore[misc]
            if not best:
                yield Lost(id_, "memory", f"no stack with it fits on {self.baseline.device.name}")
                continue
            kind, why = self._lost(best[0], by_stack, beaten) or ("dominated", "its best stack is beaten at the goal")
            yield Lost(id_, kind, why if best[0].count == 1 else f"at best {self._label(best[0])}, {why}")

    def _idle(self, solo: Cost) -> str | None:
        """Why a technique alone does nothing for the goal; None if it does something."""
        field = self.goal.field
        now, before = getattr(solo, field), getattr(self.base, field)
        if steps(now, before) < 0:
            return None
        costs = [(name, getattr(solo, f"{name}_s"), getattr(self.base, f"{name}_s")) for name in STAGES]
        longer = f"it makes {self.goal.name} {now / before:.2f}× as large" if before and steps(now, before) > 0 else ""
        saved = [(old - new, name, old, new) for name, new, old in costs if steps(new, old) < 0]
        if longer:
            return longer
        if not saved:
            slower = [(new / old, name) for name, new, old in costs if old and steps(new, old) > 0]
            if slower:
                times, name = max(slower)
                return f"it makes no stage faster, and {name} take {times:.2f}× as long"
            return f"it changes no stage by {share(STEP)}"
        _, name, old, new = max(saved)
        gained = f"it makes {name} {old / new:.2f}× as fast" if new else f"it removes {name}"
        if field == "total_s":
            return f"{gained}, which is {share(old / self.base.total_s)} of the total"
        if field == "ttft_s" and name != "decoding":
            return f"{gained}, which is {share(old / self.base.ttft_s)} of ttft"
        return f"{gained}, which is no part of {self.goal.name}"

    def _conflicts(self) -> Iterable[Lost]:
        for pair, verdict in self.search.verdicts.items():
            if verdict.value == "breaks":
                yield Lost(" × ".join(sorted(pair)), "conflict", verdict.edges[0].reason)

    def _settings(self) -> str:
        said = "each technique at its entry's default setting"
        if self.mild:
            said += ", and halfway from there to the setting that turns it off"
        if self.tried:
            said += f"; {', '.join(self.tried)} at the settings given"
        return said


def _asked(kb: KnowledgeBase, option: str, query: str) -> set[str]:
    """The techniques that a query finds.

    Raises:
        AtlasError: it cannot be answered; the message is one line.
    """
    try:
        return {*kb.query(query).ids}
    except AtlasError as error:
        raise AtlasError(f"{option} {query}: {str(error).splitlines()[0]}") from None
