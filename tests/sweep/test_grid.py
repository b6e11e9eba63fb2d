"""The axes of a sweep and their points."""

from __future__ import annotations

from itertools import product

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.sweep.grid import Grid, deployments, grid


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner()


def test_points_come_in_the_order_of_nested_loops() -> None:
    axes = Grid(
        models=("a", "b"), hardware=("x", "y", "z"), workloads=("w",), batches=(1, 2),
        deployments=deployments(tensor_parallel=[1, 2]), stacks=((), ("s",)),
    )  # fmt: skip
    expected = list(product("ab", "xyz", "w", (1, 2), axes.deployments, axes.stacks))
    points = [axes.point(index) for index in range(axes.points)]
    assert [(p.model, p.hardware, p.workload, p.batch, p.deployment, p.stack) for p in points] == expected


def test_a_grid_of_a_trillion_points_is_never_written_out() -> None:
    many = tuple(map(str, range(10_000)))
    axes = Grid(models=many, hardware=many, workloads=many)
    assert axes.points == 10**12
    assert axes.point(10**12 - 1).workload == "9999"


def test_names_patterns_and_all_become_ids_once_each(planner: Planner) -> None:
    found = grid(
        planner, models=["Qwen2.5-VL-7B", "qwen2.5-vl-*", "qwen2.5-vl-7b"], hardware=["h200, l4"], workloads=["all"]
    )
    assert found.models[0] == "qwen2.5-vl-7b"
    assert len(set(found.models)) == len(found.models) > 2
    assert found.hardware == ("h200-sxm", "l4")
    assert found.workloads == tuple(planner.kb.atlas.workloads)
    assert found.stacks == ((),)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"models": ["qwen2.5-vl-7bb"]}, "did you mean 'qwen2.5-vl-7b'"),
        ({"models": ["zz*"]}, "no model matches 'zz"),
        ({"models": []}, "there is no model"),
        ({"hardware": ["h2000"]}, "no device 'h2000'"),
        ({"workloads": ["images-2"]}, "did you mean 'images-20'"),
        ({"stacks": ["fastw"]}, "did you mean 'fastv'"),
        ({"batches": [0]}, "batch is 0"),
        ({"price_usd_h": {"h200": -1.0}}, "price of h200"),
    ],
)
def test_wrong_input_is_one_line_with_a_repair(planner: Planner, changed: dict[str, object], said: str) -> None:
    given: dict[str, object] = {"models": ["qwen2.5-vl-7b"], "hardware": ["h200"], "workloads": ["images-20"]}
    with pytest.raises(AtlasError, match=said) as caught:
        grid(planner, **(given | changed))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_deployments_combine_values_and_keep_defaults() -> None:
    assert deployments() == (Deployment(),)
    found = deployments(tensor_parallel=[1, 2], kv_dtype=["bfloat16"], attention=[])
    assert found == (Deployment(kv_dtype="bf16"), Deployment(kv_dtype="bf16", tensor_parallel=2))
    with pytest.raises(AtlasError, match="no type of numbers 'fp7'"):
        deployments(weight_dtype=["fp7"])
    with pytest.raises(AtlasError, match="tensor_parallel is 0"):
        deployments(tensor_parallel=[0])
