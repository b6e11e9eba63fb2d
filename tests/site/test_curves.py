"""The page of all techniques on one model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvlm_atlas import load
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.curves import SPARED, Curves, curves_page
from lvlm_atlas.specs.answers import kept


@pytest.fixture(scope="module")
def content() -> Content:
    return Content(load(data_root()))


def test_every_curve_that_spares_something_stands_in_one_table(content: Content) -> None:
    curves = Curves(content.atlas)
    shown = [row.technique.id for rows in curves.by_cost.values() for row in rows]
    assert sorted(shown) == sorted(set(shown))
    for id_, curve in content.atlas.curves.items():
        spares = any(each.cost[curve.main_cost] < SPARED for each in kept(curve))
        assert (id_ in shown) == spares


def test_tables_begin_with_what_keeps_most_and_hold_the_same_setting_by_task(content: Content) -> None:
    for rows in Curves(content.atlas).by_cost.values():
        assert [row.near.share for row in rows] == sorted((row.near.share for row in rows), reverse=True)
        for row in rows:
            assert row.by_task
            assert all(each.setting == row.near.setting for each in row.by_task.values())
            assert set(row.by_task) == set(row.near.tasks)


def test_a_setting_that_a_task_declined_leaves_its_cell_empty(content: Content) -> None:
    atlas = content.atlas
    id_, curve = next((id_, curve) for id_, curve in atlas.curves.items() if len(curve.tasks) > 1)
    first, *others = curve.tasks
    fewer = curve.model_copy(update={"tasks": (first.model_copy(update={"points": first.points[:1]}), *others)})
    curves = Curves(replace(atlas, curves={id_: fewer}))
    assert [row.technique.id for rows in curves.by_cost.values() for row in rows] == [id_]


def test_an_atlas_without_curves_has_no_such_page(content: Content) -> None:
    bare = replace(content, kb=replace(content.kb, atlas=replace(content.atlas, curves={})))
    assert not [*curves_page(bare)]
    assert [*curves_page(content)]
