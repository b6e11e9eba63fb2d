"""What to do about a model that its devices cannot hold, or a prompt that the model cannot."""

from __future__ import annotations

from dataclasses import replace

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.weights import weights, weights_of

_DTYPES = ("llm=fp8", "awq")
"""Smaller types of weights as released checkpoints have them, largest first."""


def misfit(estimate: Estimate) -> str | None:
    """What does not fit and the repair, in one line; None if everything fits.

    A prompt beyond the model's context comes first, since no device helps.
    """
    return overlong(estimate) if estimate.prompt_fits is False else too_large(estimate)


def too_large(estimate: Estimate) -> str | None:
    """What the devices lack and the repair, in one line; None if they hold everything.

    The repairs are a batch that fits, the fewest devices that hold the model by tensor parallelism, and the largest
    smaller type of weights that fits as things are; where none helps, that is said.
    """
    return None if estimate.fits else f"{shortage(estimate)}; {_repair(estimate)}"


def overlong(estimate: Estimate) -> str:
    """How long the prompt is, what the model is released for, and the repair."""
    return (
        f"the prompt has {estimate.prompt_tokens:,} tokens, but {estimate.model.name} is released for "
        f"{estimate.model.llm.context:,}, so that servers refuse it; give fewer or smaller images, fewer frames or "
        "less text, or a technique that leaves fewer tokens before the LLM"
    )


def shortage(estimate: Estimate) -> str:
    """What one device would have to hold, and what it holds."""
    memory, devices = estimate.memory, estimate.deployment.devices
    each = "" if devices == 1 else f" on each of {devices} devices"
    split = ", ".join(f"{name} {_gb(byte)}" for name, byte in memory.held.items() if byte)
    return (
        f"{estimate.model.name} needs {_gb(memory.device_byte)} GB{each} ({split}), but {estimate.device.name} holds "
        f"{_gb(estimate.usable_byte)} GB{_of(estimate)}"
    )


def _of(estimate: Estimate) -> str:
    """Of how much, where software leaves some of it."""
    runtime = estimate.deployment.runtime
    return f" ({runtime.name} takes {runtime.memory_share:.0%} of it)" if runtime and runtime.memory_share < 1 else ""


def _repair(estimate: Estimate) -> str:
    deployment = estimate.deployment
    heads, now = estimate.model.llm.heads, deployment.tensor_parallel
    more = (n for n in range(now + 1, heads + 1) if heads % n == 0)
    repairs = [f"--tp {n}" for n in more if _fits(estimate, replace(deployment, tensor_parallel=n))][:1]
    bits = weights_of(deployment, estimate.model).types["llm"].bits
    smaller = (dtype for dtype in _DTYPES if weights(dtype, estimate.model).types["llm"].bits < bits)
    lighter = [dtype for dtype in smaller if _fits(estimate, replace(deployment, weight_dtype=dtype))]
    repairs += [f"--weight-dtype {dtype}" for dtype in lighter[:1]]
    if 0 < estimate.largest_batch < estimate.workload.batch:
        repairs.insert(0, f"--batch {estimate.largest_batch}")
    repair = f"give {' or '.join(repairs)}" if repairs else "give a smaller request, a smaller batch or a larger device"
    return f"{repair}, or ask `lvlm-atlas plan --goal memory` which techniques help"


def _fits(request: Estimate, deployment: Deployment) -> bool:
    try:
        return estimate(request.model, request.device, request.workload, deployment, request.stack).fits
    except AtlasError:  # the device has no link, or the model cannot be split so
        return False


def _gb(byte: float) -> str:
    return f"{byte / 1e9:.1f}" if byte >= 5e7 else f"{byte / 1e9:.2g}"
