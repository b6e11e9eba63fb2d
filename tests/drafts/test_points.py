"""The extension points as they are read from their source are those that run."""

from __future__ import annotations

from dataclasses import fields

import pytest

from lvlm_atlas.drafts.points import extension_points
from lvlm_atlas.reference.lvlm.points import POINTS


def test_every_point_is_there_in_order_with_its_method() -> None:
    assert {id_: point.method for id_, point in extension_points().items()} == {
        id_: point.method for id_, point in POINTS.items()
    }
    assert list(extension_points()) == list(POINTS)


@pytest.mark.parametrize("id_", POINTS)
def test_what_a_context_holds_is_what_it_has(id_: str) -> None:
    context = POINTS[id_].context
    held = dict(extension_points()[id_].holds)
    own = {name for name in vars(context) if not name.startswith("_")} | {field.name for field in fields(context)}
    assert {name.removesuffix("()") for name in held} == own
    assert all(callable(getattr(context, name[:-2])) for name in held if name.endswith("()"))


@pytest.mark.parametrize("id_", POINTS)
def test_when_a_point_is_called_names_its_position(id_: str) -> None:
    point = extension_points()[id_]
    assert point.when.startswith(f"At `{id_}`, ")
    assert point.doc.endswith(".")
