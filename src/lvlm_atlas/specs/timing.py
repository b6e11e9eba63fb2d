"""Published times as requests of the engine: what was asked of which model, where, and what the engine predicts."""

from __future__ import annotations

from argparse import ArgumentError, ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.limits import MOST_RATE
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.runtime import Runtime
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.schema.timing import Point

REQUEST = ("image", "images", "video", "frames", "text", "output", "batch", "turns")
DEPLOYMENT = {
    "tp": "tensor_parallel", "pp": "pipeline_parallel", "weight_dtype": "weight_dtype",
    "activation_dtype": "activation_dtype", "kv_dtype": "kv_dtype", "attention": "attention",
}  # fmt: skip
"""Options of `lvlm-atlas estimate` that a timing may give, by what they set."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One published time, ready for the engine."""

    source: str
    """The record or file that it stands in, and the source named there."""
    label: str
    """Model, device and options, in words."""
    model: Model
    device: Device
    workload: Workload
    deployment: Deployment
    metric: str
    """Which field of the estimate it is."""
    value_s: float
    """What was measured."""

    def predicted_s(self, runtime: Runtime | None) -> float:
        """What the engine says, with a runtime or as the bound.

        Raises:
            AtlasError: as of `roofline.estimate.estimate`.
        """
        deployment = replace(self.deployment, runtime=runtime)
        if runtime and runtime.host.image_pixel_s:  # a plain core's, which sources of such runtimes do not time
            deployment = replace(deployment, image_rate=MOST_RATE, video_rate=MOST_RATE)
        return _value(estimate(self.model, self.device, self.workload, deployment), self.metric)


def timing(
    point: Point,
    source: str,
    model: Callable[[str], Model],
    device: Callable[[str], Device],
    request: Callable[..., Workload],
) -> Timing:
    """A published time with what it names.

    Args:
        point: the time.
        source: where it stands.
        model: finds models.
        device: finds devices.
        request: makes requests, as `Planner.request`.

    Raises:
        AtlasError: a name is unknown, or an option is none of `lvlm-atlas estimate` or of no sense there.
    """
    asked, run = options(point.args)
    if point.text_only:
        asked = {name: value for name, value in asked.items() if name not in ("image", "images", "video", "frames")}
    workload = request(**asked)
    if point.text_only:
        workload = replace(workload, images=(), videos=())
    label = f"{point.model} on {point.hardware}, {' '.join(point.args)}{', text only' if point.text_only else ''}"
    return Timing(
        source, label, model(point.model), device(point.hardware), workload, Deployment(**run), point.metric,
        point.value,
    )  # fmt: skip


def options(args: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What options of `lvlm-atlas estimate` ask for: parts of the request, and fields of the deployment.

    Raises:
        AtlasError: one is none of them, or no value.
    """
    parser = ArgumentParser(prog="args", add_help=False, exit_on_error=False, allow_abbrev=False)
    for name in REQUEST:
        if name in ("image", "video"):
            parser.add_argument(f"--{name}", action="append")
        else:
            parser.add_argument(f"--{name}", type=int)
    for name in DEPLOYMENT:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int if name in ("tp", "pp") else str)
    try:
        known, rest = parser.parse_known_args(list(args))
    except ArgumentError as error:
        raise AtlasError(f"args: {error}; write options as `lvlm-atlas estimate` takes them") from None
    if rest:
        allowed = ", ".join(f"--{name.replace('_', '-')}" for name in (*REQUEST, *DEPLOYMENT))
        raise AtlasError(f"args: {rest[0]!r} is no option that a timing gives; give {allowed}")
    given = {name: value for name, value in vars(known).items() if value is not None}
    run = {field: given[name] for name, field in DEPLOYMENT.items() if name in given}
    return {name: given[name] for name in REQUEST if name in given}, run


def _value(found: Estimate, metric: str) -> float:
    head, _, rest = metric.partition(".")
    if head == "stages":
        return found.stages[rest.partition(".")[0]].time_s
    return float(getattr(found, metric))
