"""Instances that change their pool: by queues, by how busy pools are, or by what a move gains and costs."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from lvlm_atlas.serving.gain import best_move, stage_of, work
from lvlm_atlas.serving.instance import Instance

if TYPE_CHECKING:
    from lvlm_atlas.serving.cluster import Cluster

PERIOD_S = {"queue-length": 5.0, "load": 10.0, "gain-cost": 2.0}
"""Time between two decisions: that of EPDServe's released code, one chosen here, and ElasticMM's 100 steps or so."""
PRESSED = 20
"""Requests that wait in a group of one modality before it gets an instance of another (ElasticMM's released code,
elasticmm/core/balancer.py, migration_threshold)."""
NEAR = 0.5
"""Queues of which each is at least this share of the longest are left alone."""
BUSY, SPARE = 0.9, 0.6
"""Shares of its time that a pool is busy from which on it wants an instance, and below which it can spare one."""


def scale(cluster: Cluster) -> Generator[Any, Any, None]:
    """Move one instance at a time, as long as requests come or are under way."""
    rule = cluster.policy.scaling
    before = [0.0] * len(cluster.pools)
    while cluster.open:
        yield cluster.env.timeout(PERIOD_S[rule])
        if any(each.leaving for each in cluster.instances):
            continue
        if rule == "queue-length":
            pair = by_queues(_queues(cluster), _sizes(cluster))
        elif rule == "gain-cost":
            pair = by_gain(cluster)
        else:
            now = [busy_s(cluster, index) for index in range(len(cluster.pools))]
            shares = [
                (after - was) / PERIOD_S[rule] / size
                for after, was, size in zip(now, before, _sizes(cluster), strict=True)
            ]
            before = now
            pair = by_load(shares, _sizes(cluster))
        if pair is not None:
            source, target = pair
            leaver = min(cluster.pools[source], key=lambda each: each.load)
            cluster.env.process(_move(cluster, leaver, target))


def by_queues(queues: list[int], sizes: list[int]) -> tuple[int, int] | None:
    """From which pool to which an instance goes: to the longest queue, from the shortest that has one to spare."""
    longest = max(queues)
    if not longest or all(each >= NEAR * longest for each in queues):
        return None
    givers = [index for index, size in enumerate(sizes) if size > 1 and queues[index] < NEAR * longest]
    if not givers:
        return None
    return min(givers, key=lambda index: (queues[index], -sizes[index])), queues.index(longest)


def by_load(shares: list[float], sizes: list[int]) -> tuple[int, int] | None:
    """The same by how busy pools are: to the busiest, from the least busy."""
    target = max(range(len(shares)), key=lambda index: shares[index])
    if shares[target] < BUSY:
        return None
    givers = [
        i for i, size in enumerate(sizes) if size > 1 and shares[i] < SPARE and shares[i] * size / (size - 1) < BUSY
    ]
    return (min(givers, key=lambda index: shares[index]), target) if givers else None


def by_gain(cluster: Cluster) -> tuple[int, int] | None:
    """The same by gain and cost: within a group of one modality where a move gains more than it costs, else to a group
    in which many wait, from the other's pool that has least to do.
    """
    sizes, queues = _sizes(cluster), _queues(cluster)
    stages = [stage_of(cluster, index) for index in range(len(sizes))]
    works = [work(cluster, index) for index in range(len(sizes))]
    groups = [each.modality for each in cluster.policy.pools]
    for group in dict.fromkeys(groups):
        own = [index for index, each in enumerate(groups) if each == group]
        pair = best_move([stages[i] for i in own], [sizes[i] for i in own], [works[i] for i in own])
        if pair is not None:
            return own[pair[0]], own[pair[1]]
    target = max(range(len(sizes)), key=lambda index: queues[index])
    givers = [i for i, size in enumerate(sizes) if size > 1 and groups[i] != groups[target]]
    if queues[target] <= PRESSED or not givers:
        return None
    return min(givers, key=lambda index: works[index].time_s / sizes[index]), target


def queue(cluster: Cluster, index: int) -> int:
    """Requests and images that wait in a pool, and those that it has yet to take on."""
    return len(cluster.offers[index]) + sum(len(each.waiting) + len(each.to_encode) for each in cluster.pools[index])


def busy_s(cluster: Cluster, index: int) -> float:
    """Time that the instances of a pool have been in steps for."""
    now = sum(sum(each.busy_s.values()) for each in cluster.pools[index])
    return sum(cluster.past_busy_s[index].values()) + now


def hand_over(cluster: Cluster, instance: Instance) -> None:
    """Others of the pool take what waits at an instance that leaves."""
    index = cluster.policy.pools.index(instance.pool)
    images, waiting = [*instance.to_encode], [*instance.waiting]
    instance.to_encode.clear()
    instance.waiting.clear()
    for request, image in images:
        target = cluster.choose(index, "image")
        target.to_encode.append((request, image))
        target.nudge()
    for request in waiting:
        request.instance = cluster.choose(index, "prompt")
        cluster.enqueue(request, request.instance)


def join(cluster: Cluster, instance: Instance, target: int) -> None:
    """An instance that is done becomes a part of another pool."""
    index = cluster.policy.pools.index(instance.pool)
    cluster.pools[index].remove(instance)
    for stage, spent_s in instance.busy_s.items():
        cluster.past_busy_s[index][stage] += spent_s
        instance.busy_s[stage] = 0.0
    cluster.past_s[index] += cluster.env.now - instance.joined_s
    instance.join(cluster.policy.pools[target])
    cluster.pools[target].append(instance)
    cluster.moves += 1
    cluster.take(target)
    instance.nudge()


def _queues(cluster: Cluster) -> list[int]:
    return [queue(cluster, index) for index in range(len(cluster.pools))]


def _sizes(cluster: Cluster) -> list[int]:
    return [len(pool) for pool in cluster.pools]


def _move(cluster: Cluster, instance: Instance, target: int) -> Generator[Any, Any, None]:
    """Take nothing on, hand over what waits, finish what is under way, and join the other pool."""
    instance.leaving = True
    hand_over(cluster, instance)
    while not instance.idle or instance.memory.used > 1:
        yield cluster.env.timeout(DRAIN_S)
    join(cluster, instance, target)


DRAIN_S = 0.05
"""Time between two looks whether an instance is done."""
