"""The Pareto front: what is on it, and what beats the rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.planner.front import dominates, pareto, steps

points = st.lists(st.tuples(*[st.integers(-3, 3)] * 3), max_size=40)


def front_of(found: list[tuple[int, ...]], slack: int = 0) -> tuple[dict[int, tuple[int, ...]], dict[int, int]]:
    """The front of points whose bounds are this much lower."""
    least = [(tuple(number - slack for number in point), name) for name, point in enumerate(found)]
    return pareto(least, lambda name: found[name])


@given(points, st.integers(0, 3))
def test_no_point_of_the_front_dominates_another_and_each_other_is_dominated_by_one(
    found: list[tuple[int, ...]], slack: int
) -> None:
    front, beaten = front_of(found, slack)
    assert {*front} | {*beaten} == {*range(len(found))}
    assert not {*front} & {*beaten}
    for one, here in front.items():
        assert not any(dominates(there, here) for two, there in front.items() if one != two)
    assert all(by in front and dominates(found[by], found[name]) for name, by in beaten.items())


@given(points, st.integers(0, 3))
def test_the_front_is_what_pairwise_comparison_leaves(found: list[tuple[int, ...]], slack: int) -> None:
    front, _ = front_of(found, slack)
    plain = {point for point in found if not any(other != point and dominates(other, point) for other in found)}
    assert {*front.values()} == plain


def test_of_equal_points_the_first_stays() -> None:
    front, beaten = front_of([(1, 1), (1, 1)])
    assert [*front] == [0]
    assert beaten == {1: 0}


def test_a_point_whose_bound_is_beaten_is_never_looked_at() -> None:
    looked = []

    def exact(name: str) -> tuple[int, ...]:
        looked.append(name)
        return {"good": (1, 1), "bad": (3, 3)}[name]

    assert pareto([((0, 0), "good"), ((2, 2), "bad")], exact) == ({"good": (1, 1)}, {"bad": "good"})
    assert looked == ["good"]


def test_what_does_not_count_is_neither_on_the_front_nor_beaten() -> None:
    assert pareto([((0,), "out")], lambda _: None) == ({}, {})


def test_differences_that_a_roofline_cannot_tell_are_none() -> None:
    assert steps(1.0, 1.0) == steps(1.004, 1.0) == 0
    assert steps(0.985, 1.0) < 0 < steps(1.015, 1.0)
    assert steps(0.0, 1.0) < steps(1e-6, 1.0)
    assert steps(0.0, 0.0) == 0
