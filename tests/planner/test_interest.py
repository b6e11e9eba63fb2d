"""Which techniques are worth running together."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from lvlm_atlas import load
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.interest import FRONT, LEAST, SPARED, Interesting, interesting, settings
from lvlm_atlas.specs.answers import tasks_of

KB = load()


def test_curves_without_the_training_that_a_paper_asks_for_take_no_part() -> None:
    able = settings(KB)
    one = next(iter(able))
    untuned = {**KB.atlas.curves, one: KB.atlas.curves[one].model_copy(update={"untuned": True})}
    kb = KnowledgeBase(replace(KB.atlas, curves=untuned))
    assert settings(kb).keys() == able.keys() - {one}


def test_settings_spare_something_and_keep_enough() -> None:
    for id_, each in settings(KB).items():
        assert each.share >= LEAST
        assert each.cost[KB.atlas.curves[id_].main_cost] < SPARED


@pytest.fixture(scope="module")
def fronts() -> set[frozenset[str]]:
    """The first three techniques with a task in common, as if a plan had found them."""
    first, *others = settings(KB)
    ours = tasks_of(KB.atlas.curves[first])
    shared = [id_ for id_ in others if {*ours} <= {*tasks_of(KB.atlas.curves[id_])}]
    return {frozenset((first, *shared[:2]))}


@pytest.fixture(scope="module")
def found(fronts: set[frozenset[str]]) -> list[Interesting]:
    return interesting(KB, fronts, 40)


def test_fronts_come_first_and_each_pair_has_a_reason_a_task_and_no_conflict(
    found: list[Interesting], fronts: set[frozenset[str]]
) -> None:
    (front,) = fronts
    assert {each.id for each in found[0].techniques} == front
    assert found[0].why == (FRONT,)
    assert len(found) == 41
    assert len({each.id for each in found}) == len(found)
    for each in found[1:]:
        one, two = (technique.id for technique in each.techniques)
        assert each.why
        assert each.tasks
        assert KB.relation(one, two).value != "breaks"
        assert (FRONT in each.why) == ({one, two} <= front)


def test_no_technique_comes_up_twice_before_all_that_can_came_up_once(found: list[Interesting]) -> None:
    seen: set[str] = set()
    fresh = []
    for each in found[1:]:
        ids = {technique.id for technique in each.techniques}
        fresh.append(not ids & seen)
        seen |= ids
    assert all(now >= then for now, then in pairwise(fresh))


def test_techniques_that_are_asked_for_are_in_every_stack(fronts: set[frozenset[str]]) -> None:
    wanted = next(iter(settings(KB)))
    found = interesting(KB, fronts, 5, (wanted,))
    assert found
    assert all(wanted in {technique.id for technique in each.techniques} for each in found)
