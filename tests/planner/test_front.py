"""The Pareto front: what is on it, and what need not be looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.planner.front import Point, Tie, dominates, pareto, step_end, steps

points = st.lists(st.tuples(*[st.integers(-3, 3)] * 3), max_size=40)


def front_of(found: list[Point], slack: int = 0) -> dict[int, Point]:
    """The front of points whose bounds are this much lower, then half of it."""

    def bounds(name: int) -> Iterator[tuple[Point, Tie]]:
        for less in (slack, slack // 2):
            yield tuple(number - less for number in found[name]), ()

    return pareto(range(len(found)), bounds, lambda name: (found[name], (name,)))


@given(points, st.integers(0, 3))
def test_the_front_is_what_pairwise_comparison_leaves(found: list[Point], slack: int) -> None:
    front = front_of(found, slack)
    plain = {point for point in found if not any(other != point and dominates(other, point) for other in found)}
    assert {*front.values()} == plain
    assert len(front) == len(plain)


@given(points, st.integers(0, 3), st.randoms(use_true_random=False))
def test_neither_bounds_nor_order_decide_what_is_on_the_front(found: list[Point], slack: int, draw: object) -> None:
    names = [*range(len(found))]
    draw.shuffle(names)  # type: ignore[attr-defined]

    def bounds(name: int) -> Iterator[tuple[Point, Tie]]:
        yield tuple(number - slack for number in found[name]), ()

    assert pareto(names, bounds, lambda name: (found[name], (name,))) == front_of(found)


def test_of_equal_points_that_with_the_least_tie_stays() -> None:
    ties = {"late": (2.0, 1), "early": (1.0, 9), "middle": (1.5, 0)}
    for names in (["late", "early", "middle"], ["early", "middle", "late"]):
        front = pareto(names, lambda name: iter([((0,), (ties[name][0],))]), lambda name: ((1,), ties[name]))
        assert [*front] == ["early"]


def test_a_point_whose_bound_is_beaten_is_never_looked_at() -> None:
    looked = []

    def bounds(name: str) -> Iterator[tuple[Point, Tie]]:
        yield {"good": (0, 0), "bad": (2, 2)}[name], ()
        looked.append(f"second bound of {name}")
        yield {"good": (0, 0), "bad": (2, 2)}[name], ()

    def exact(name: str) -> tuple[Point, Tie]:
        looked.append(name)
        return {"good": (1, 1), "bad": (3, 3)}[name], (name,)

    assert pareto(["good", "bad"], bounds, exact) == {"good": (1, 1)}
    assert looked == ["second bound of good", "good"]


def test_what_does_not_count_is_not_on_the_front_and_beats_nothing() -> None:
    exact = {"out": None, "in": ((1,), ())}
    assert pareto(["out", "in"], lambda _: iter([((0,), ())]), lambda name: exact[name]) == {"in": (1,)}


def test_differences_that_a_roofline_cannot_tell_are_none() -> None:
    assert steps(1.0, 1.0) == steps(1.004, 1.0) == 0
    assert steps(0.985, 1.0) < 0 < steps(1.015, 1.0)
    assert steps(0.0, 1.0) < steps(1e-6, 1.0)
    assert steps(0.0, 0.0) == 0


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_no_figure_above_the_end_of_a_step_counts_as_that_step(figure: float, base: float) -> None:
    end = step_end(steps(figure, base), base)
    assert figure <= end
    assert steps(end * 1.0001, base) > steps(figure, base)


@pytest.mark.parametrize("figure", [0.0, 1.0])
def test_nothing_is_above_the_end_of_a_step_that_has_no_base(figure: float) -> None:
    assert step_end(steps(figure, 0.0), 0.0) == float("inf")
