"""The request and its deployment, from the options that the predicting commands share."""

from __future__ import annotations

from collections.abc import Sequence

from lvlm_atlas.cli.options import Kernel
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment, efficiency_named
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.specs.request import request


def asked(
    planner: Planner,
    workload: str,
    image: Sequence[str] | None,
    images: int | None,
    video: Sequence[str] | None,
    *,
    text: int | None,
    output: int | None,
    batch: int | None,
    turns: int | None,
) -> Workload:
    """The workload with parts of it replaced.

    Raises:
        AtlasError: as of `planner.request.request`.
    """
    return request(
        planner.workload(workload), images=image or (), count=images, videos=video or (), text=text, output=output,
        batch=batch, turns=turns,
    )  # fmt: skip


def deployed(
    tp: int,
    pp: int,
    weight_dtype: str | None,
    activation_dtype: str | None,
    kv_dtype: str | None,
    attention: Kernel,
    efficiency: str,
    price: float | None,
    *,
    skip_unused: bool,
) -> Deployment:
    """How the model is run.

    Raises:
        AtlasError: as of `roofline.deployment.Deployment`.
    """
    return Deployment(
        weight_dtype=weight_dtype, activation_dtype=activation_dtype, kv_dtype=kv_dtype, tensor_parallel=tp,
        pipeline_parallel=pp, attention=attention.value,
        unused_layers=not skip_unused, efficiency=efficiency_named(efficiency), price_usd_h=price,
    )  # fmt: skip
