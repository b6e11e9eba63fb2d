"""Letters in the names of tensors are held against shapes while the tests of the reference run."""

from __future__ import annotations

import pytest
import torch
from tests.shapes import ShapeError, check, checked


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"x_BND": (2, 3, 4), "y_BN": (2, 3)}, None),
        ({"x_BND": (2, 3)}, "x_BND has 2 axes"),
        ({"x_BND": (2, 3, 4), "y_BN": (2, 5)}, "N is 5 in y_BN"),
        ({"x_BND": (2, 3, 4), "y_BN": (1, 3), "z_B": (2,)}, None),
        ({"x_B": (1,), "y_B": (2,), "z_B": (3,)}, "B is 3 in z_B"),
        ({"weight_BHUU": (1, 1, 4, 5)}, "U is 5 in weight_BHUU"),
        ({"frames_F3HW": (6, 4, 8, 8)}, "3 is 4|4 in frames_F3HW"),
        ({"angle_BNf": (2, 3, 4), "x_BNd": (2, 3, 8)}, None),
        ({"position_BN": (2, 3, 3), "x_BND": (2, 3, 4)}, None),
        ({"rows_of_heads": (2, 3), "keep_top": (4,), "total": ()}, None),
        ({"score_d": (4, 4)}, "score_d has 2 axes"),
    ],
)
def test_a_letter_means_one_size_and_as_many_letters_as_axes(
    shapes: dict[str, tuple[int, ...]], said: str | None
) -> None:
    variables = {name: torch.zeros(shape) for name, shape in shapes.items()}
    if said is None:
        check(variables)
    else:
        with pytest.raises(ShapeError, match=said):
            check(variables)


def test_what_is_no_tensor_may_have_any_name() -> None:
    check({"budget_BG": [1, 2], "keep_K": 3, "x_BND": torch.zeros(1, 2, 3)})


def wrong(x_BND: torch.Tensor) -> torch.Tensor:
    flat_BN = x_BND.flatten(1)
    return flat_BN.sum()


def test_functions_are_looked_at_as_they_return_inside_alone() -> None:
    x = torch.zeros(2, 3, 4)
    wrong(x)
    said = r"test_shapes\.py:\d+ wrong: N is 12 in flat_BN \(2, 12\), 3 in x_BND"
    with checked((__file__,)), pytest.raises(ShapeError, match=said):
        wrong(x)
    wrong(x)
    with checked():
        wrong(x)  # not among those files
