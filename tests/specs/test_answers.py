"""What curves say of answers: shares, intervals, the cheapest setting, worked out by hand."""

from __future__ import annotations

import math

import pytest

from lvlm_atlas.schema.curve import Curve, CurvePoint, TaskCurve
from lvlm_atlas.schema.measurement import Machine
from lvlm_atlas.specs.answers import NORMAL, architectures_of, cheapest, kept, of_architecture, tasks_of

MACHINE = Machine(device="a", kind="cpu", python="3.11", torch="2", system="Linux")


def point(keep: float, right: int, lost: int, gained: int = 0) -> CurvePoint:
    return CurvePoint(
        setting={"keep_ratio": keep}, cost={"vision_tokens": keep}, right=right, lost=lost, gained=gained, hard_right=0
    )


def task(name: str, full: int, *points: CurvePoint, of: int = 100, checkpoint: str = "lab-a") -> TaskCurve:
    return TaskCurve(checkpoint=checkpoint, task=name, of=of, full=full, hard=0, points=points)


def curve(*tasks: TaskCurve) -> Curve:
    return Curve(
        samples=100, id="fastv", date="2026-11-30", version="0", machine=MACHINE, checkpoints={"lab-a": "0" * 64},
        knob="keep_ratio", main_cost="vision_tokens", tasks=tasks,
    )  # fmt: skip


def test_the_share_is_right_over_full_and_its_interval_that_of_the_changed_answers() -> None:
    (only,) = kept(curve(task("read", 80, point(0.5, 60, 25, 5))))
    assert only.share == pytest.approx(60 / 80)
    assert only.margin == pytest.approx(NORMAL * math.sqrt((30 - 20**2 / 100) / 80**2))
    assert only.questions == 100


def test_tasks_count_alike_whatever_their_questions() -> None:
    few, many = task("read", 10, point(0.5, 5, 5), of=10), task("where", 1000, point(0.5, 1000, 0), of=1000)
    (both,) = kept(curve(few, many))
    assert both.share == pytest.approx(0.75)
    assert both.tasks == ("read", "where")
    (one,) = kept(curve(few, many), ("where",))
    assert one.share == 1
    assert one.margin == 0


def test_trained_models_that_differ_widen_the_interval() -> None:
    same = [task("read", 100, point(0.5, 80, 20), checkpoint=f"lab-{seed}") for seed in "abc"]
    apart = [task("read", 100, point(0.5, right, 100 - right), checkpoint=f"lab-{right}") for right in (60, 80, 100)]
    (one,), (other,) = kept(curve(*same)), kept(curve(*apart))
    assert one.share == pytest.approx(other.share)
    assert other.margin > 1.5 * one.margin
    assert one.models == 3


def test_a_model_that_lacks_a_task_neither_shifts_the_share_nor_widens_its_interval() -> None:
    read = [task("read", 100, point(0.5, 80, 20), checkpoint=name) for name in ("lab-a", "lab-b")]
    where = task("where", 100, point(0.5, 50, 50))
    (found,) = kept(curve(*read, where))
    assert found.share == pytest.approx((0.8 + 0.5) / 2)
    of_read, of_where = (20 - 20**2 / 100) / 100**2, (50 - 50**2 / 100) / 100**2
    assert found.margin == pytest.approx(NORMAL * math.sqrt((of_read / 2 + of_where) / 4))
    assert found.models == 2


def test_a_task_that_the_model_cannot_do_says_nothing() -> None:
    made = curve(task("chart", 30, point(0.5, 30, 0)), task("read", 90, point(0.5, 45, 45)))
    assert tasks_of(made) == ("read",)
    assert kept(made)[0].share == pytest.approx(0.5)
    assert kept(made, ("chart",)) == ()


def test_the_cheapest_setting_keeps_enough() -> None:
    made = curve(task("read", 100, point(0.75, 99, 1), point(0.5, 96, 4), point(0.25, 70, 30)))
    assert [each.cost["vision_tokens"] for each in kept(made)] == [0.75, 0.5, 0.25]
    found = cheapest(made, 0.95)
    assert found is not None
    assert found.setting == {"keep_ratio": 0.5}
    assert cheapest(made, 0.995) is None
    assert cheapest(made, 0.5, ("no-task",)) is None


def test_a_mean_is_over_the_architecture_of_most_models_and_the_others_stand_apart() -> None:
    llava = [task("read", 100, point(0.5, 80, 20), checkpoint=f"lab-llava-s{seed}") for seed in range(2)]
    qwen = [task(name, 100, point(0.5, 40, 60), checkpoint="lab-qwen-s0") for name in ("chart", "read")]
    both = curve(*qwen, *llava)
    assert architectures_of(both) == ("lab-llava", "lab-qwen")
    assert tasks_of(both) == ("read",)
    (first,), (other,) = kept(both), kept(of_architecture(both, "lab-qwen"))
    assert (first.share, first.models, first.questions) == (pytest.approx(0.8), 2, 200)
    assert (other.share, other.models, other.tasks) == (pytest.approx(0.4), 1, ("chart", "read"))
    assert kept(curve()) == ()
