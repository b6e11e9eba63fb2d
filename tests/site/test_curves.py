"""The page of all techniques on one model."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.schema.stack import Departure, MeasuredStack, Member, StackTask
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.curves import ENOUGH, SPARED, Curves, by_architecture, curves_page
from lvlm_atlas.site.equal_quality import equal_quality
from lvlm_atlas.site.render import environment, render
from lvlm_atlas.site.technique import technique_page
from lvlm_atlas.specs.answers import architectures_of, kept, of_architecture


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


def test_baselines_are_drawn_in_every_plot_whose_cost_they_spare(content: Content) -> None:
    curves = Curves(content.atlas)
    names = {row.technique.name: row for row in curves.baselines}
    assert names
    for cost in curves.by_cost:
        drawn = str(curves.plot(cost, "id"))
        for name, row in names.items():
            spares = min(each.cost[cost] for each in row.all_) < SPARED
            assert (f">{name}<" in drawn) == spares, (cost, name)


def test_the_page_tells_of_the_models_that_curves_name_and_holds_stacks_against_the_sum(content: Content) -> None:
    one, two = [*content.atlas.curves][:2]
    record = next(iter(content.atlas.curves.values()))
    found = Departure(value=0.1, low=0.02, high=0.18)
    task = StackTask(checkpoint="lab-a", task="read", samples=1, full="1", alone=("1", "1"), joint="0")
    harm = MeasuredStack(
        id=f"{one}.{two}", date="2026-11-30", version="0", machine=record.machine, checkpoints=record.checkpoints,
        members=(Member(technique=one, setting={}, kept=0.9), Member(technique=two, setting={}, kept=0.95)),
        kept=0.75, departure=found, verdict=found.verdict, tasks=(task,),
    )  # fmt: skip
    less = Departure(value=-0.04, low=-0.06, high=-0.02)
    mild = harm.model_copy(update={"id": "a.b", "departure": less, "verdict": less.verdict})
    atlas = replace(content.atlas, stacks={mild.id: mild, harm.id: harm})
    full = replace(content, kb=replace(content.kb, atlas=atlas))
    assert Curves(atlas).stacks == (harm, mild)
    (page,) = curves_page(full)
    text = render(full, page, environment(Path(data_root()) / "site")).replace("&#45;", "-").replace("&#43;", "+")
    assert "+10.0 (+2.0 to +18.0) | harmful" in text
    assert "-4.0 (-6.0 to -2.0) | redundant" in text
    models = Curves(atlas).models
    assert {each.id for each in models} == set(record.checkpoints)
    for each in models:
        assert f"<code>{each.id}</code>" in text
        assert each.vision_tokens > 0
        assert each.accuracy.keys() == each.blind.keys() == each.downsampled.keys()
    (bare,) = curves_page(content) if not content.atlas.stacks else (None,)
    assert bare is None or "held against the sum" not in render(content, bare, environment(Path(data_root()) / "site"))


def test_what_another_architecture_keeps_stands_apart_at_the_same_setting(content: Content) -> None:
    curves = Curves(content.atlas)
    assert curves.elsewhere
    rows = [row for rows in curves.by_cost.values() for row in rows]
    assert {name for row in rows for name in row.elsewhere} == {*curves.elsewhere}
    for row in rows:
        for name, other in row.elsewhere.items():
            assert other.setting == row.near.setting
            assert other in kept(of_architecture(row.curve, name))
            assert (own := curves.of(row.technique))
            assert f">all, on {name.removeprefix('lab-')}<" in own[1]
            means = sum(len(kept(of_architecture(row.curve, each))) for each in architectures_of(row.curve))
            assert own[1].count("la-interval") == means
    (page,) = curves_page(content)
    text = unescape(render(content, page, environment(Path(data_root()) / "site")))
    for dialect in curves.elsewhere.values():
        assert text.count(f"On <code>{dialect}</code> |") == len(curves.by_cost)


def test_the_page_of_a_technique_says_which_models_it_declines(content: Content) -> None:
    id_, curve = next((id_, curve) for id_, curve in content.atlas.curves.items() if curve.declined)
    page = technique_page(content, content.atlas.techniques[id_])
    text = unescape(render(content, page, environment(Path(data_root()) / "site")))
    bare = re.sub("</?code>", "`", text)
    assert "".join(f"- `{model}` was declined: {why}\n" for model, why in curve.declined.items()) + "\n" in bare


def test_orders_of_one_architecture_and_of_two_are_told_apart(content: Content) -> None:
    pairs = {("a", "b"): 0.8, ("a", "c"): 0.5, ("b", "c"): 0.3, ("a", "gone"): -1.0}
    apart = by_architecture(pairs, {"a": "llava", "b": "llava", "c": "qwen"})
    assert apart == pytest.approx({"of one architecture": 0.8, "of two architectures": 0.4})
    assert Curves(content.atlas).between_models


def test_the_page_tells_what_was_trained_for_techniques_and_which_of_them_are_untuned(content: Content) -> None:
    curves, (page,) = Curves(content.atlas), curves_page(content)
    used = {id_ for curve in content.atlas.curves.values() for id_ in curve.parts}
    assert {part.id for part, _ in curves.parts.values()} <= used
    text = render(content, page, environment(Path(data_root()) / "site"))
    for part, techniques in curves.parts.values():
        assert part.summary in text
        assert not any(content.atlas.curves[each.id].untuned for each in techniques)
    rows = [row for rows in curves.by_cost.values() for row in rows]
    assert text.count("*untuned* |") == sum(row.curve.untuned for row in rows)
    assert text.count(" steps*") == sum(len(curves.parts_of(row.curve)) for row in rows)


def test_at_equal_quality_all_keep_enough_and_have_the_numbers_of_their_estimate(content: Content) -> None:
    equal = equal_quality(content.estimates, ENOUGH)
    assert equal
    base = equal.baseline
    for row in equal.rows:
        assert row.kept.share >= ENOUGH
        again = content.estimates.planner.estimate(base.model.id, base.device.id, base.workload.id, stack=row.setting)
        assert (again.ttft_s, again.tpot_s) == (row.estimate.ttft_s, row.estimate.tpot_s)
    shown = {row.technique.id for row in equal.rows} | {each.what for each in equal.lost}
    assert shown == {*content.atlas.curves}
    plan = content.estimates.planner.plan(
        base.model.id, base.device.id, base.workload.id, goal="ttft", keep_quality=ENOUGH
    )
    assert {id_ for option in plan for id_ in option.answers} <= {row.technique.id for row in equal.rows}
    for flag, value in (("model", base.model.id), ("hardware", base.device.id), ("keep-quality", f"{ENOUGH:g}")):
        assert f"--{flag} {value}" in equal.command
