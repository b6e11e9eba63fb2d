"""Groups of options: one declaration, several commands, the same help and the same values."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from typing import Annotated

import pytest
import typer

from lvlm_atlas.cli.option_group import OptionGroup, expand_groups
from lvlm_atlas.cli.predict import estimate, interactions, plan
from lvlm_atlas.cli.request_options import DeploymentOptions, Kernel, RequestOptions
from lvlm_atlas.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment

PLANNER = Planner()


@dataclass(frozen=True)
class Paint(OptionGroup):
    """Two options."""

    colour: Annotated[str, typer.Option("--colour")] = "red"
    coats: Annotated[int, typer.Option("--coats")] = 1


def test_a_group_stands_for_its_options_where_it_stood() -> None:
    @expand_groups
    def command(*, wall: str, size: int = 3, paint: Paint, root: str = "") -> None: ...

    parameters = inspect.signature(command).parameters
    assert list(parameters) == ["wall", "size", "colour", "coats", "root"]
    assert parameters["wall"].default is inspect.Parameter.empty
    assert [parameters[name].default for name in ("size", "colour", "coats", "root")] == [3, "red", 1, ""]


def test_a_command_gets_its_groups_filled_in_and_the_rest_as_it_is() -> None:
    calls = []

    @expand_groups
    def command(*, wall: str, paint: Paint) -> None:
        calls.append((wall, paint))

    command(wall="north", colour="blue", coats=2)
    assert calls == [("north", Paint("blue", 2))]


def test_typer_reads_the_options_of_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    @expand_groups
    def command(*, paint: Paint) -> None:
        """Paint a wall."""
        typer.echo(f"{paint.coats} × {paint.colour}")

    app(["--coats", "2"], standalone_mode=False)
    assert capsys.readouterr().out == "2 × red\n"


def test_the_predicting_commands_share_each_option_of_request_and_deployment() -> None:
    signatures = [inspect.signature(command).parameters for command in (estimate, plan, interactions)]
    shared = [field.name for group in (RequestOptions, DeploymentOptions) for field in fields(group)]
    for name in shared:
        first, *others = (parameters[name] for parameters in signatures)
        assert all(other == first for other in others), name


def test_deployment_options_become_the_deployment_that_they_say() -> None:
    options = DeploymentOptions(
        tensor_parallel=2, kv_dtype="fp8", attention=Kernel.materialised, skip_unused_layers=True, price_usd_h=2.5
    )
    expected = Deployment(
        tensor_parallel=2, kv_dtype="fp8", attention="materialised", unused_layers=False, price_usd_h=2.5
    )
    assert options.to_deployment(PLANNER) == expected
    assert DeploymentOptions().to_deployment(PLANNER) == Deployment()
    assert DeploymentOptions(runtime="vllm").to_deployment(PLANNER).runtime.id == "vllm"
