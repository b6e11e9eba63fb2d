"""Instances go where the load is, and nothing is lost on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvlm_atlas.serving.gain import Work, best_move
from lvlm_atlas.serving.load import load
from lvlm_atlas.serving.scaling import by_load, by_queues
from lvlm_atlas.serving.simulation import simulate
from lvlm_atlas.serving.traffic import Kind, Mix, synthetic
from lvlm_atlas.serving.wires import Wires
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


def test_a_move_pays_where_what_waits_gains_more_than_those_who_stay_lose() -> None:
    stages = ["prefilling", "decoding"]
    waits, decodes = Work(8.0, 40, 0.04, 0.04), Work(1.0, 0, 0.0, 0.5)
    assert best_move(stages, [1, 3], [waits, decodes]) == (1, 0)
    # Eq. 2 by hand: 19.88 rounds of 0.04 a token times the 8 s / 0.9 that half as many instances save.
    assert waits.gain("prefilling", 1) == pytest.approx(0.04 * 8 / 0.9 / 2 * (1 - 0.95**100) / 0.05)
    assert decodes.cost("decoding", 3) == pytest.approx(0.5 * (0.1 + 0.05 * (1 / 1.5 - 1 / 2.25)))
    assert best_move(stages, [1, 1], [waits, decodes]) is None, "the last instance of a stage stays"
    assert best_move(stages, [1, 3], [waits._replace(waiting=1), decodes]) is None, "as many instances as wait"
    assert best_move(stages, [1, 3], [waits, decodes._replace(per_present=100.0)]) is None, "too many would lose"


@pytest.mark.parametrize("rule", ["queue-length", "load", "gain-cost"])
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
