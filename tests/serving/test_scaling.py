"""Instances go where the load is, and nothing is lost on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvlm_atlas.serving.cluster import Wires
from lvlm_atlas.serving.load import load
from lvlm_atlas.serving.scaling import by_load, by_queues
from lvlm_atlas.serving.simulation import simulate
from lvlm_atlas.serving.traffic import Kind, Mix, synthetic
from servers import D_, E_, P_, server

SPLIT = server(((E_,), 2), ((P_,), 1), ((D_,), 5), spread_images=True)
LINK = Wires(byte_s=4.5e11)


@pytest.mark.parametrize(
    ("queues", "sizes", "pair"),
    [
        ([9, 1, 0], [1, 2, 5], (2, 0)),
        ([9, 1, 0], [1, 2, 1], (1, 0)),
        ([9, 1, 0], [1, 1, 1], None),
        ([9, 5, 6], [1, 2, 5], None),
        ([0, 0, 0], [2, 2, 2], None),
    ],
)
def test_the_longest_queue_gets_an_instance_of_the_shortest_that_can_spare_one(queues, sizes, pair) -> None:
    assert by_queues(queues, sizes) == pair


@pytest.mark.parametrize(
    ("shares", "sizes", "pair"),
    [
        ([0.95, 0.3, 0.2], [1, 2, 5], (2, 0)),
        ([0.95, 0.55, 0.55], [1, 2, 2], None),  # the rest of either would be overrun
        ([0.7, 0.1, 0.1], [1, 2, 5], None),
        ([0.99, 0.1], [3, 1], None),
    ],
)
def test_a_pool_gives_only_what_it_can_do_without(shares, sizes, pair) -> None:
    assert by_load(shares, sizes) == pair


@pytest.mark.parametrize("rule", ["queue-length", "load"])
def test_a_burst_of_long_prompts_moves_instances_to_where_they_are_read(planner, prices, rule: str) -> None:
    many = Mix((Kind(planner.request("images-20", images=8, output=32), 1),))
    runs = {
        scaling: simulate(replace(SPLIT, scaling=scaling), prices(), synthetic(many, 12.0, 400), LINK)
        for scaling in ("fixed", rule)
    }
    fixed, moved = runs["fixed"], runs[rule]
    assert (fixed.cluster.moves, moved.cluster.moves > 0) == (0, True)
    assert len(moved.cluster.pools[1]) > 1 or moved.cluster.past_s[1] > 0  # some came, and went once all was read
    assert sum(map(len, moved.cluster.pools)) == 8
    assert min(map(len, moved.cluster.pools)) >= 1
    assert len(moved.tally.total_s) == 400
    assert moved.tally.last_s < 0.8 * fixed.tally.last_s
    # Work is conserved: images cost as much wherever they are encoded.
    spent = [
        sum(
            run.cluster.past_busy_s[i][E_] + sum(e.busy_s[E_] for e in pool) for i, pool in enumerate(run.cluster.pools)
        )
        for run in (fixed, moved)
    ]
    assert spent[1] == pytest.approx(spent[0], rel=0.02)
    for pool in load(moved, slo={}, devices=8).pools:
        assert 0 <= pool.busy <= 1 + 1e-9
