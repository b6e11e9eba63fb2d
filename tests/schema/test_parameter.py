"""Parameters: single values and lists of numbers, each with what is legal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lvlm_atlas.lab.settings import candidates
from lvlm_atlas.schema.expression import evaluate
from lvlm_atlas.schema.technique import Parameter
from lvlm_atlas.schema.wording import setting
from lvlm_atlas.specs.stack import value_of


def boundaries(**given: Any) -> Parameter:
    wanted = {
        "type": "ints",
        "default": (8, 16, 24),
        "range": "[1, inf)",
        "length": 3,
        "order": "rising",
        "doc": "Layers.",
    }
    return Parameter.model_validate({**wanted, **given})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ((8, 16, 24), None),
        ((1, 2, 3), None),
        ((8, 16), "holds 2 numbers where 3 are wanted"),
        ((8, 24, 16), "is not rising"),
        ((8, 8, 16), "is not rising"),
        ((0, 8, 16), "0 lies outside"),
        ((8, 16.5, 24), "16.5 is not of type int"),
        ((True, 8, 16), "True is not of type int"),
        (8, "is no list of numbers"),
        ("8/16/24", "is no list of numbers"),
    ],
)
def test_a_list_is_held_against_range_length_and_order(value: Any, problem: str | None) -> None:
    said = boundaries().problem_with(value)
    assert said is None if problem is None else problem in str(said)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"default": (24, 16, 8)}, "is not rising"),
        ({"range": None}, "has no `range`"),
        ({"type": "int", "default": 8}, "drop them"),
    ],
)
def test_a_parameter_that_contradicts_itself_is_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        boundaries(**given)


@given(
    st.lists(st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=6)
)
def test_a_list_reads_as_it_is_spelled(values: list[float]) -> None:
    parameter = Parameter(type="floats", default=(1.0,), range="(-inf, inf)", doc="Any.")
    assert value_of(parameter, setting(tuple(values))) == tuple(values)


def test_what_spells_no_list_stays_text_and_is_refused() -> None:
    text = value_of(boundaries(), "8/x/24")
    assert "is no list" in str(boundaries().problem_with(text))


@pytest.mark.parametrize("order", ["rising", "falling", None])
def test_drawn_lists_are_legal_and_differ(order: str | None) -> None:
    default = (8, 16, 24) if order != "falling" else (24, 16, 8)
    parameter = boundaries(order=order, default=default)
    drawn = candidates(parameter)
    assert len(drawn) > 2
    assert all(parameter.problem_with(value) is None for value in drawn)


@pytest.mark.parametrize(
    ("text", "value"),
    [("at(rates, 1)", 0.5), ("count(layers, l)", 2), ("length(layers)", 3), ("sum(layers)", 48),
     ("at(rates, count(layers, l) - 1)", 0.5)],
)  # fmt: skip
def test_formulas_read_lists(text: str, value: float) -> None:
    assert evaluate(text, {"layers": (8, 16, 24), "rates": (0.9, 0.5, 0.1), "l": 16}) == value


@pytest.mark.parametrize("text", ["at(layers, 3)", "layers", "layers + 1", "at(l, 0)", "sum(l)"])
def test_a_formula_that_misuses_a_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text[:5].replace("(", r"\(")):
        evaluate(text, {"layers": (8, 16, 24), "l": 16})
