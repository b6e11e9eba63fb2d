"""Effects and overheads say one thing each, and every one can be put into words."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from lvlm_atlas import load
from lvlm_atlas.schema.effect import CHANGES, COSTS, Change, Effect, Overhead, Schedule
from lvlm_atlas.schema.wording import as_text, change, cost, layers

EFFECT: TypeAdapter[Any] = TypeAdapter(Effect)
KINDS = get_args(get_args(Effect)[0])
SMALLEST = dict.fromkeys(("elements", "key", "value", "group_size", "group_overhead_bit", "draft_length"), 1) | {
    "draft_nodes": 1, "draft_passes": 1, "accepted_at_most": 1, "draft_vision_tokens": 0, "exact": "no", "set": 1,
}  # fmt: skip


def quantity(kind: type) -> str:
    (name,) = get_args(kind.model_fields["quantity"].annotation)  # type: ignore[attr-defined]
    return str(name)


def smallest(kind: type, **given: Any) -> Any:
    """The effect of a kind that says least."""
    fields = kind.model_fields  # type: ignore[attr-defined]
    values = {name: value for name, value in SMALLEST.items() if name in fields}
    return EFFECT.validate_python({"quantity": quantity(kind), **values, **given})


def test_every_quantity_of_the_taxonomy_has_its_effect_and_the_other_way_round() -> None:
    terms = {term.id for term in load().atlas.terms("quantity")}
    assert {quantity(kind) for kind in KINDS} == terms - {"overhead"}


@pytest.mark.parametrize("kind", KINDS, ids=quantity)
def test_every_effect_can_be_put_into_words(kind: type) -> None:
    assert as_text(change(smallest(kind))).strip()
    if "from_layer" in kind.model_fields:  # type: ignore[attr-defined]
        assert as_text(layers(smallest(kind, from_layer=2, to_layer="L - 1"))) == "from layer 2 to before layer `L − 1`"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, Change)], ids=quantity)
@pytest.mark.parametrize("given", [{}, {"set": 1, "scale": 0.5}, {"set": 1, "at_most": 2}])
def test_a_change_says_exactly_one_thing(kind: type, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="give exactly one of"):
        EFFECT.validate_python({"quantity": quantity(kind), **given})


def test_a_cache_may_be_bounded_only_while_it_grows() -> None:
    effect = EFFECT.validate_python({"quantity": "kv.tokens", "limit": "sink + recent"})
    assert effect.grows_only
    assert as_text(change(effect)) == "never more than `sink + recent` while decoding"
    both = EFFECT.validate_python({"quantity": "kv.tokens", "cap": 64, "limit": 96, "of": "vision", "per_head": True})
    words = "at most 64; never more than 96 while decoding; heads differ, their mean (of vision entries)"
    assert (both.grows_only, as_text(change(both))) == (False, words)


def test_pixels_may_change_in_some_of_the_frames() -> None:
    effect = EFFECT.validate_python({"quantity": "pixels", "scale": 0.25, "frames": "min(F, 4)"})
    assert as_text(change(effect)) == "× 0.25 in `min(F, 4)` frames"
    assert as_text(change(smallest(type(effect)))) == "= 1"


@pytest.mark.parametrize("name", COSTS)
def test_an_overhead_names_its_cost(name: str) -> None:
    assert as_text(cost(Overhead.model_validate({"stage": "prefilling", name: 7, "why": "it is needed"}))).startswith(
        "7 "
    )


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "names no cost"),
        ({"flop": 1, "from_layer": 2}, "no `attention_rows`"),
        ({"attention_rows": 1, "to_layer": 2}, "no `from_layer`"),
    ],
)
def test_an_overhead_that_says_too_little_is_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        Overhead.model_validate({"stage": "prefilling", "why": "it is needed", **given})


def test_rows_of_given_layers_and_heads_are_said() -> None:
    overhead = Overhead.model_validate(
        {"stage": "prefilling", "attention_rows": "window", "from_layer": 2, "heads": 1, "serialises_batch": True,
         "sequential_steps": "K", "why": "it is needed"}
    )  # fmt: skip
    assert as_text(cost(overhead)) == (
        "window attention rows a head, K steps one after the other, rows from layer 2, rows of 1 heads, "
        "one request of a batch after the other"
    )


def test_schedules_are_changes_with_layers() -> None:
    assert all({"from_layer", "to_layer"} <= set(kind.model_fields) for kind in KINDS if issubclass(kind, Schedule))
    assert set(CHANGES) <= set(Change.model_fields)


def test_bits_name_a_group_with_what_it_adds_or_none() -> None:
    bits = {"quantity": "kv.bits", "key": 8, "value": 8}
    assert as_text(change(EFFECT.validate_python(bits))) == "K in 8, V in 8 bit"
    words = as_text(change(EFFECT.validate_python({**bits, "group_size": 32, "group_overhead_bit": 16})))
    assert words == "K in 8, V in 8 bit, in groups of 32, each plus 16 bit"
    for name in ("group_size", "group_overhead_bit"):
        with pytest.raises(ValidationError, match="give both or neither"):
            EFFECT.validate_python({**bits, name: 32})
