"""Grids of stacks as people write them."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.sweep.stacks import Stack, expand, label

KNOWN = ("fastv", "kivi", "look-m", "tome")


def id_of(word: str) -> str:
    if word.lower() not in KNOWN:
        raise AtlasError(f"no technique {word!r}")
    return word.lower()


def stacks(text: str) -> tuple[Stack, ...]:
    return expand(text, KNOWN, id_of)


def test_none_is_no_stack() -> None:
    assert stacks("none") == ((),)
    assert label(()) == "none"


def test_alternatives_of_values_multiply() -> None:
    assert stacks("fastv:keep_ratio=0.25|0.5,layer=2|3+kivi:bits=2") == (
        ("fastv:keep_ratio=0.25,layer=2", "kivi:bits=2"),
        ("fastv:keep_ratio=0.25,layer=3", "kivi:bits=2"),
        ("fastv:keep_ratio=0.5,layer=2", "kivi:bits=2"),
        ("fastv:keep_ratio=0.5,layer=3", "kivi:bits=2"),
    )


def test_a_pattern_stands_for_all_techniques_that_match() -> None:
    assert stacks("*v*+tome") == (("fastv", "tome"), ("kivi", "tome"))
    assert stacks("all") == tuple((id_,) for id_ in KNOWN)


def test_names_become_ids_and_blanks_do_not_matter() -> None:
    assert stacks(" FastV : keep_ratio = 0.5 | 0.75 + kivi ") == (
        ("fastv:keep_ratio=0.5", "kivi"),
        ("fastv:keep_ratio=0.75", "kivi"),
    )


def test_the_plus_of_a_number_joins_nothing() -> None:
    assert stacks("fastv:x=1e+3|2E+4+kivi") == (("fastv:x=1e+3", "kivi"), ("fastv:x=2E+4", "kivi"))


@pytest.mark.parametrize(
    "text", ["", "+kivi", "fastv+", "fastv:", "fastv:keep_ratio", "fastv:keep_ratio=|0.5", "fastv:=1"]
)
def test_what_is_missing_is_named_in_one_line(text: str) -> None:
    with pytest.raises(AtlasError, match=r"^stack |there is no technique") as caught:
        stacks(text)
    assert "\n" not in str(caught.value)


def test_an_unknown_technique_is_refused() -> None:
    with pytest.raises(AtlasError, match="'fastw'"):
        stacks("kivi+fastw:keep_ratio=0.5")
    with pytest.raises(AtlasError, match="no technique matches"):
        stacks("zz*")


@given(
    st.lists(
        st.tuples(st.sampled_from(KNOWN), st.lists(st.integers(0, 9), min_size=1, max_size=3)), min_size=1, max_size=3
    )
)
def test_labels_are_read_back_as_the_same_stack(parts: list[tuple[str, list[int]]]) -> None:
    text = "+".join(f"{id_}:n={'|'.join(map(str, values))}" for id_, values in parts)
    found = stacks(text)
    assert len(found) == prod(len(values) for _, values in parts)
    for stack in found:
        assert stacks(label(stack)) == (stack,)
