"""Records of the catalog as the engine takes them: plain dataclasses in bytes and FLOP/s."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline import deployment, device, model, workload
from lvlm_atlas.roofline.tokens import unfit_arguments
from lvlm_atlas.schema.hardware import Hardware
from lvlm_atlas.schema.llm import Llm
from lvlm_atlas.schema.model import Adapter, Front, Model, Parameters, Tokens, VideoRule, Vision
from lvlm_atlas.schema.workload import Workload

MEGA, GIGA, TERA = 1e6, 1e9, 1e12
GIBI = 2**30


def model_spec(record: Model) -> model.Model:
    """The engine's view of a model."""
    return model.Model(
        id=record.id,
        name=record.name,
        dtype=record.dtype,
        weight_dtype=record.weight_dtype,
        encoder=_encoder(record.vision, record.params),
        adapter=_adapter(record.adapter, record.params),
        llm=_llm(record.llm, record.params),
        tokens=_tokens(record.tokens),
    )


def device_spec(record: Hardware) -> device.Device:
    """The engine's view of an accelerator."""
    peaks: dict[str, float] = record.peak_tflop_s.model_dump(exclude_none=True)
    peaks |= {f"{dtype}-acc16": peak for dtype, peak in record.fp16_accumulate_tflop_s.items()}
    host, visible = record.host_link.per_direction_gb_s, record.visible_memory
    return device.Device(
        id=record.id,
        name=record.name,
        peak_flop_s={dtype: peak * TERA for dtype, peak in peaks.items()},
        bandwidth_byte_s=record.bandwidth_gb_s * GIGA,
        memory_byte=visible.gib * GIBI if visible else record.memory_gb * GIGA,
        memory_source=visible.source if visible else "",
        link_byte_s=record.link.bidirectional_gb_s / 2 * GIGA if record.link else None,
        host_link_byte_s=host * GIGA if host else None,
        tdp_w=record.tdp_w,
        typical=_typical(record),
    )


LARGE_GIB, LARGE_BUDGET = 70, 8192
"""Memory from which on vLLM gives a pass more tokens, but on an A100; and how many: `deployment.TYPICAL`."""


def _typical(record: Hardware) -> deployment.Efficiency:
    """What was found on the device; the factors that nobody names are those of the general preset."""
    general, efficiency, visible = deployment.TYPICAL, record.efficiency, record.visible_memory
    gib = visible.gib if visible else record.memory_gb * GIGA / GIBI
    if gib >= LARGE_GIB and "A100" not in record.name:
        general = replace(general, token_budget=LARGE_BUDGET)
    if efficiency is None:
        return general
    named = {
        "compute": efficiency.prefill_flop,
        "bandwidth": efficiency.bandwidth,
        "kernel_floor_s": efficiency.kernel_us and efficiency.kernel_us / MEGA,
        "reserve_byte": efficiency.memory_reserve_gb and efficiency.memory_reserve_gb * GIGA,
    }
    own: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    return replace(general, **own, sources={**general.sources, **dict.fromkeys(own, efficiency.source)})


def workload_spec(record: Workload) -> workload.Workload:
    """The engine's view of a workload."""
    return workload.Workload(
        id=record.id,
        images=tuple(workload.Image(each.width, each.height, each.count) for each in record.images),
        videos=tuple(
            workload.Video(each.width, each.height, each.duration_s, each.sample_fps, each.source_fps)
            for each in record.videos
        ),
        text_tokens=record.text_tokens,
        output_tokens=record.output_tokens,
        turns=record.turns,
        batch=record.batch,
    )


def _encoder(vision: Vision, params: Parameters) -> model.Encoder:
    return model.Encoder(
        layers=vision.layers,
        layers_needed=vision.layers_needed,
        hidden=vision.hidden,
        mlp=vision.mlp,
        gated_mlp=vision.gated_mlp,
        heads=vision.heads,
        head_dim=vision.head_dim,
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        class_token=vision.cls_token,
        front=_front(vision.front) if vision.front else None,
        full_attention_layers=frozenset(vision.window.full_attention_layers) if vision.window else None,
        parameters=params.vision,
    )


def _front(front: Front) -> model.Front:
    shapes = front.model_dump(exclude={"full_attention_layers", "convolutions"})
    convolutions = tuple(model.Convolution(**dict(each)) for each in front.convolutions)
    return model.Front(
        **shapes, full_attention_layers=frozenset(front.full_attention_layers), convolutions=convolutions
    )


def _adapter(adapter: Adapter, params: Parameters) -> model.Adapter:
    return model.Adapter(
        widths=adapter.widths,
        merge=adapter.merge or 1,
        gated=adapter.gated,
        pools_by_attention=adapter.pools_by_attention,
        copies=adapter.copies,
        queries=adapter.queries,
        parameters=params.adapter,
    )


def _llm(llm: Llm, params: Parameters) -> model.Llm:
    window = llm.sliding_window
    return model.Llm(
        layers=llm.layers,
        hidden=llm.hidden,
        intermediate=llm.intermediate,
        heads=llm.heads,
        kv_heads=llm.kv_heads,
        head_dim=llm.head_dim,
        vocab=llm.vocab,
        experts=model.Experts(**dict(llm.experts)) if llm.experts else None,
        linear=_linear(llm),
        global_heads=_global_heads(llm),
        borrowing_layers=llm.shared_cache.layers if llm.shared_cache else 0,
        borrowing_intermediate=llm.shared_cache.intermediate if llm.shared_cache else None,
        layer_input=llm.layer_inputs.width if llm.layer_inputs else 0,
        layer_vocab=llm.layer_inputs.vocab if llm.layer_inputs else 0,
        output_gate=llm.output_gate,
        latent=model.LatentAttention(**dict(llm.mla)) if llm.mla else None,
        window=window.tokens if window else None,
        local_layers=frozenset(range(llm.layers)) - {*window.global_layers} if window else frozenset(),
        cross_layers=frozenset(llm.cross_attention_layers),
        position_axes=llm.position_axes,
        context=llm.context,
        tied=llm.tied_embeddings,
        parameters=params.llm,
    )


def _global_heads(llm: Llm) -> model.Heads | None:
    wide = llm.global_attention
    if wide is None:
        return None
    projections = 1 if wide.shared_projection else 2
    return model.Heads(kv_heads=wide.kv_heads, head_dim=wide.head_dim, projections=projections)


def _linear(llm: Llm) -> model.LinearAttention | None:
    linear = llm.linear_attention
    if linear is None:
        return None
    layers = frozenset(range(llm.layers)) - {*linear.full_attention_layers}
    return model.LinearAttention(layers=layers, **linear.model_dump(exclude={"full_attention_layers"}))


def _tokens(tokens: Tokens) -> model.TokenRule:
    video = tokens.video
    for named, arguments in ((tokens.image, 1), (video, 3), *((each, 3) for each in tokens.video_by.values())):
        for fault in unfit_arguments(named.rule, arguments, named.params) if named else ():
            raise AtlasError(f"{fault}; `lvlm-atlas check` lists such faults")
    return model.TokenRule(
        image=tokens.image.rule,
        image_params=tokens.image.params,
        video=video.rule if video else None,
        video_params=_video_params(video) if video else {},
        video_by={name: (each.rule, _video_params(each)) for name, each in tokens.video_by.items()},
    )


def _video_params(video: VideoRule) -> dict[str, Any]:
    return {**video.params, **dict(video.sampling)}
