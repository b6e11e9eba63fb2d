"""Whether a move of an instance gains more than it costs: ElasticMM's model (liu2025elasticmm, eqs. 2 and 3).

As its released code has it (elasticmm/core/allocator.py, gain_cost_config.py), with the engine's times in place of a
second a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.serving.prices import Chunk
from lvlm_atlas.serving.vision import Piece

if TYPE_CHECKING:
    from lvlm_atlas.serving.cluster import Cluster
    from lvlm_atlas.serving.instance import Instance

SHARED = {"encoding": 0.80, "prefilling": 0.90, "decoding": 0.75}
"""Share of an instance that a further one adds to a stage."""
MIGRATION_S, PENALTY = 0.1, 0.05
"""Time to move an instance, and the weight of the time that those lose who stay."""
ROUNDS = sum(0.95**round_ for round_ in range(100))
"""Rounds that a gain lasts: 100, each worth 5 % less than the one before."""


class Work(NamedTuple):
    """What a pool still has to do."""

    time_s: float
    """Time in which a single instance would do it."""
    waiting: int
    """Requests that wait for it."""
    per_waiting: float
    """Sum over these of one over their length: that of the prompt in front of decoding, of the answer in it."""
    per_present: float
    """The same over all that are there."""

    def on(self, stage: str, instances: int) -> float:
        """Time in which so many instances do it."""
        return self.time_s / (instances * SHARED[stage])

    def gain(self, stage: str, instances: int) -> float:
        """Seconds a token that one more instance saves its requests."""
        return ROUNDS * self.per_waiting * (self.on(stage, instances) - self.on(stage, instances + 1))

    def cost(self, stage: str, instances: int) -> float:
        """Seconds a token that its requests lose if an instance goes."""
        slower_s = self.on(stage, instances - 1) - self.on(stage, instances)
        return self.per_present * (MIGRATION_S + PENALTY * slower_s)


def best_move(stages: list[str], sizes: list[int], works: list[Work]) -> tuple[int, int] | None:
    """From which pool to which an instance goes: where the gain exceeds the cost by most; None: nowhere.

    It goes only where more requests wait than there are instances.
    """
    pairs = {
        (source, target): works[target].gain(stages[target], sizes[target])
        - works[source].cost(stages[source], size)
        for source, size in enumerate(sizes) if size > 1
        for target in range(len(sizes)) if target != source and works[target].waiting > sizes[target]
    }  # fmt: skip
    found = max(pairs, key=lambda pair: pairs[pair], default=None)
    return found if found is not None and pairs[found] > 0 else None


def stage_of(cluster: Cluster, index: int) -> str:
    """The stage that a pool is known by: the first that it runs."""
    return next(stage for stage in STAGES if stage in cluster.policy.pools[index].stages)


def work(cluster: Cluster, index: int) -> Work:
    """What a pool still has to do: images to encode, prompts to read or answers to write."""
    stage, pool = stage_of(cluster, index), cluster.pools[index]
    prices = pool[0].prices
    offered = [request for request, _, _ in cluster.offers[index]]
    if stage == "encoding":
        items = [item for each in pool for item in each.to_encode]
        time_s = sum(prices.encode([Piece(request.shape, request.frames[i])]).time_s for request, i in items)
        per = sum(1 / request.shape.prompt for request, _ in items)
        return Work(time_s, len(items), per, per)
    if stage == "prefilling":
        unread = [each for one in pool for each in (*one.waiting, *one.filling) if each.unread] + offered
        time_s = sum(prices.step([Chunk(each.shape, each.computed, each.unread)]).time_s for each in unread)
        per = sum(1 / each.shape.prompt for each in unread)
        return Work(time_s, len(unread), per, per)
    time_s = sum(_decoding_s(each) for each in pool)
    waiting = sum(1 / each.shape.output for each in offered)
    running = sum(1 / each.shape.output for one in pool for each in one.answers.running.values())
    return Work(time_s, len(offered), waiting, waiting + running)


def _decoding_s(instance: Instance) -> float:
    """Time in which an instance writes what is left of its answers."""
    answers = instance.answers
    return answers.mean_left * instance.prices.step((), answers.decoding).time_s if len(answers) else 0.0
