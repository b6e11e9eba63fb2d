"""Edges that the roofline predicts: which techniques help or hinder each other on the standard request.

They are computed when the graph is built and never stored in entries, and they decide no verdict: that two gains
multiply on paper does not show that the code of both runs together. Of all pairs only those have an edge that tell
something (`TELLING`), and of those the strongest of each technique (`KEPT`): that a gain in one stage is worth less
once another technique has shortened that stage holds of most pairs. `Planner.interactions` has the numbers of any pair.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, combinations, islice

from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.interactions import Interactions
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.pair import Pair
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.costs import Cost, Costs
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.specs.fits import problem
from lvlm_atlas.specs.technique import applied

MODEL, HARDWARE = "qwen2.5-vl-7b", "h200-sxm"
WORKLOADS = ("images-20", "video-60s")
"""The requests that edges are predicted for; of a pair that runs in both, the first counts."""
TELLING = 1.1
"""Factor that an edge tells of at least: a roofline is hardly nearer to a device than a tenth."""
KEPT = 5
"""Edges of each kind that a technique has of its own; it also has those that are among the strongest of the other."""


def with_predictions(planner: Planner) -> KnowledgeBase:
    """The knowledge base with its predicted edges; as it is where the catalog lacks the standard model or device."""
    shelves = planner.atlas
    there = MODEL in shelves.models and HARDWARE in shelves.hardware
    return KnowledgeBase(planner.kb.atlas, predicted_edges(planner)) if there else planner.kb


def predicted_edges(planner: Planner, kept: int = KEPT) -> tuple[Edge, ...]:
    """The predicted edges, in a fixed order.

    Args:
        planner: techniques, models, devices and requests.
        kept: edges of each kind that a technique has of its own; see `KEPT`.
    """
    kb, model, device = planner.kb, planner.model(MODEL), planner.device(HARDWARE)
    earlier: list[set[str]] = []
    telling: list[tuple[_Request, _Telling]] = []
    for id_ in WORKLOADS:
        if id_ in planner.atlas.workloads:
            workload = planner.workload(id_)
            fitting = [t for t in kb.atlas.techniques.values() if not problem(t, model, workload)]
            request = _Request(model, device, workload, _in_pipeline_order(kb, fitting))
            telling += ((request, each) for each in request.telling(kb, earlier))
            earlier.append({each.id for each in request.techniques})
    edges = (request.edge(each) for request, each in _strongest(telling, kept))
    return tuple(sorted(edges, key=lambda edge: sorted(edge.ends)))


@dataclass(frozen=True, slots=True)
class _Telling:
    """A pair whose joint gain tells something."""

    start: str
    kind: str
    end: str
    strength: float
    """Logarithm of the factor that it tells of."""


@dataclass(frozen=True)
class _Request:
    """The standard request, with the techniques that can run on it in pipeline order."""

    model: Model
    device: Device
    workload: Workload
    techniques: Sequence[Applied]
    _estimates: dict[tuple[str, ...], Estimate] = field(default_factory=dict)

    def telling(self, kb: Interactions, elsewhere: Iterable[Collection[str]]) -> Iterator[_Telling]:
        """The pairs that say more than that their gains multiply.

        Args:
            kb: what is known of pairs; those in conflict are left out.
            elsewhere: techniques of other requests; pairs of which both are in one are left out.
        """
        for (i, one), (j, two) in combinations(enumerate(self.techniques), 2):
            if any(one.id in ids and two.id in ids for ids in elsewhere):
                continue
            verdict = kb.relation(one.id, two.id).value
            if verdict != "breaks":
                yield from self._telling((i, j), verdict)

    def _telling(self, pair: tuple[int, int], verdict: str) -> Iterator[_Telling]:
        """What a pair tells, if anything: a joint gain a tenth off the product of both, or that the bottleneck moves.

        A directed edge starts at the technique that saves more time alone. A bottleneck is shifted to the technique
        that relieves it and then still saves a tenth. That two compose is said only where somebody has stated that
        they work together.
        """
        neither, joint = self._neither, self._time(sum(1 << index for index in pair))
        first, second = sorted(pair, key=lambda index: (self._alone[index].total_s, self.techniques[index].id))
        one, two = self._alone[first], self._alone[second]
        ratio = one.total_s * two.total_s / (neither.total_s * joint.total_s)
        start, end = self.techniques[first].id, self.techniques[second].id
        if ratio <= 1 / TELLING:
            yield _Telling(start, "diminishes", end, -math.log(ratio))
        elif ratio >= TELLING and verdict == "works":
            yield _Telling(min(start, end), "composes-with", max(start, end), math.log(ratio))
        elif ratio < TELLING:
            yield from islice(chain(self._shift(first, second, joint), self._shift(second, first, joint)), 1)

    def _shift(self, mover: int, relief: int, joint: Cost) -> Iterator[_Telling]:
        """That a technique moves the bottleneck to the stage in which another saves most, and which then tells."""
        neither, moved = self._neither, self._alone[mover]
        remaining = moved.total_s / joint.total_s
        if (
            remaining >= TELLING
            and moved.total_s < neither.total_s
            and _bottleneck(neither) != _bottleneck(moved) == _relieved(neither, self._alone[relief])
        ):
            start, end = self.techniques[mover].id, self.techniques[relief].id
            yield _Telling(start, "shifts-bottleneck-to", end, math.log(remaining))

    def edge(self, telling: _Telling) -> Edge:
        """The edge, with its numbers and the wall that decides them."""
        one, two = sorted((telling.start, telling.end))
        pair = Pair(self._estimate(), self._estimate(one), self._estimate(two), self._estimate(one, two))
        total = pair.gain("total")
        return Edge(
            start=telling.start,
            kind=telling.kind,
            end=telling.end,
            symmetric=telling.kind == "composes-with",
            reason=f"Joint {total.joint:.2f}× against {total.expected:.2f}× expected in total time: {pair.why}.",
            evidence="predicted",
            place=f"roofline, {self.workload.id}, {self.model.name}, {self.device.name}, default settings",
            strength=telling.strength,
        )

    def _estimate(self, *ids: str) -> Estimate:
        if ids not in self._estimates:
            stack = [each for each in self.techniques if each.id in ids]
            self._estimates[ids] = estimate(self.model, self.device, self.workload, None, stack)
        return self._estimates[ids]

    def _time(self, stack: int) -> Cost:
        return self._costs.of(stack, memory=False)

    @cached_property
    def _costs(self) -> Costs:
        return Costs(self.model, self.device, self.workload, Deployment(), self.techniques)

    @cached_property
    def _neither(self) -> Cost:
        return self._time(0)

    @cached_property
    def _alone(self) -> list[Cost]:
        return [self._time(1 << index) for index in range(len(self.techniques))]


def _in_pipeline_order(kb: Interactions, techniques: Iterable[Technique]) -> list[Applied]:
    return sorted((applied(kb.atlas, each) for each in techniques), key=lambda each: (each.order, each.id))


def _strongest(telling: Iterable[tuple[_Request, _Telling]], count: int) -> list[tuple[_Request, _Telling]]:
    """Those that are among the strongest of their kind for one of their ends."""
    rank: dict[tuple[str, str], int] = defaultdict(int)
    kept = []
    for request, each in sorted(telling, key=lambda pair: (-pair[1].strength, pair[1].start, pair[1].end)):
        ends = [(each.start, each.kind), (each.end, each.kind)]
        if min(rank[end] for end in ends) < count:
            kept.append((request, each))
        for end in ends:
            rank[end] += 1
    return kept


def _bottleneck(cost: Cost) -> str:
    """The stage that takes longest."""
    return max(STAGES, key=lambda stage: _stage_s(cost, stage))


def _relieved(before: Cost, after: Cost) -> str | None:
    """The stage that a technique saves most time in; None if none gets faster by a hundredth."""
    saved = {stage: _stage_s(before, stage) - _stage_s(after, stage) for stage in STAGES}
    stage = max(STAGES, key=lambda name: saved[name])
    return stage if saved[stage] >= _stage_s(before, stage) / 100 > 0 else None


def _stage_s(cost: Cost, stage: str) -> float:
    seconds: float = getattr(cost, f"{stage}_s")
    return seconds
