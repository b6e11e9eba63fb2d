"""Records of runtimes as the engine takes them, and the numbers in them that are fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lvlm_atlas.roofline import runtime as engine
from lvlm_atlas.roofline.host import IMAGE_RATE, VIDEO_RATE
from lvlm_atlas.roofline.units import share
from lvlm_atlas.schema import runtime as schema

KILO, MEGA, GIGA = 1e3, 1e6, 1e9
_SECONDS = {"ms": KILO, "us": MEGA}


def runtime_spec(record: schema.Runtime, record_of: Callable[[str], schema.Runtime]) -> engine.Runtime:
    """The engine's view of a runtime.

    Args:
        record: the record.
        record_of: finds the record whose times stand in.
    """
    timed = record_of(record.times_of) if record.times_of else record
    fitted = _fitted(record, timed)
    own = record.model_dump()
    return engine.Runtime(
        id=record.id,
        name=record.name,
        versions=record.versions,
        laws=_laws(timed.kernels),
        few_compute=timed.kernels["narrow"].compute if "narrow" in timed.kernels else None,
        host=_host(timed.host, record.prefill_chunk_token),
        link_latency_s=(timed.link_latency_us or 0.0) / MEGA,
        cache_copies=own["cache_copies"] if own["cache_copies"] is not None else timed.cache_copies or 0.0,
        repeats_heads=record.repeats_heads or timed.repeats_heads,
        wide_parts=record.wide_parts or timed.wide_parts,
        scale_bit=record.scale_bit or timed.scale_bit or 0.0,
        memory_share=record.memory_share or 1.0,
        logits_of_all=(record.logits or timed.logits) == "all",
        reserve_byte=None if record.reserve_gb is None else record.reserve_gb * GIGA,
        residual=_residual(record, timed),
        fitted=fitted,
    )


def _laws(kernels: Mapping[schema.Kernel, schema.Law]) -> dict[str, engine.Law]:
    """The laws, with what a kind leaves open taken from that of products."""
    base = kernels.get("linear", schema.Law())
    laws: dict[str, engine.Law] = {}
    for kind, law in kernels.items():
        own = law.compute if kind != "narrow" else None  # it bounds few rows alone
        start_us = base.start_us if law.start_us is None else law.start_us
        laws[kind] = engine.Law(
            own or base.compute or 1.0, law.bandwidth or base.bandwidth or 1.0, (start_us or 0.0) / MEGA
        )
    return laws


def _host(host: schema.Host, chunk: int | None) -> engine.Host:
    """The host's part. Where a record says nothing of images, one core decodes and resizes them."""
    seconds = {
        f"{name.rpartition('_')[0]}_s": value / _SECONDS[name.rpartition("_")[2]]
        for name, value in host.model_dump(exclude={"starts"}).items()
        if value is not None
    }
    if "image_s" not in seconds and "megapixel_s" not in seconds:
        seconds |= {"image_pixel_s": 1 / MEGA / IMAGE_RATE, "video_pixel_s": 1 / MEGA / VIDEO_RATE}
    return engine.Host(**seconds, hides=host.starts == "hide", chunk_token=chunk)


def _residual(record: schema.Runtime, timed: schema.Runtime) -> float | None:
    """The larger of the errors on what was left out and on what was kept aside; None without a timing of its own."""
    if timed.fit is None or not (record.fit or record.judged):
        return None
    return max(timed.fit.left_out, record.judged.error if record.judged else 0.0)


def _fitted(record: schema.Runtime, timed: schema.Runtime) -> str:
    """What the times rest on, in words."""
    if timed.fit is None:
        return "no timing of it was at hand, so its kernels reach the peaks and its host costs nothing"
    fit, aside = timed.fit, record.judged
    stand_in = "" if timed is record else f"those of {timed.name}, {'as' if aside else 'since'} none of its own was "
    stand_in += "" if timed is record else "fitted: " if aside else "at hand: "
    held = f", and {share(aside.error)} on {aside.points} kept aside ({', '.join(aside.timings)})" if aside else ""
    return (
        f"{stand_in}fitted to {fit.points} timings ({', '.join(fit.timings)}), median error {share(fit.residual)} "
        f"on them and {share(fit.left_out)} on each {fit.left_out_by} left out{held}"
    )
