"""Covering stacks: every compatible ordered pair stands in one, nothing incompatible does, and there are few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas import load
from lvlm_atlas.lab.covering import SIZE, covering, refusals

PAIRS = st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] != pair[1]))


def pairs_of(stack: tuple[int, ...]) -> set[tuple[int, int]]:
    return {(one, two) for at, two in enumerate(stack) for one in stack[:at]}


@given(compatible=PAIRS, size=st.integers(2, 7))
def test_all_compatible_pairs_and_no_others_are_covered(compatible: set[tuple[int, int]], size: int) -> None:
    stacks = covering(range(10), compatible, size)
    assert {pair for stack in stacks for pair in pairs_of(stack)} == compatible
    assert all(len(set(stack)) == len(stack) <= size for stack in stacks)
    assert stacks == covering(range(10), compatible, size)


def test_at_110_techniques_there_are_hardly_more_stacks_than_there_must_be() -> None:
    members = range(110)
    compatible = {(one, two) for one in members for two in members if one != two}
    least = 110 * 109 / (SIZE * (SIZE - 1) / 2)
    assert len(covering(members, compatible)) < 1.35 * least


@pytest.mark.parametrize("pair", [("look-m", "xattention"), ("xattention", "look-m")])
def test_a_pair_that_the_constructor_refuses_has_its_reason(pair: tuple[str, str]) -> None:
    found = refusals([load().technique(id_) for id_ in ("look-m", "xattention", "kivi")])
    assert "drop one of them" in str(found[pair])
    assert found["look-m", "kivi"] is None
    assert len(found) == 6
