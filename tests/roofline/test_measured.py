"""The engine against what others measured: its ideal is a bound that nothing beats. Run with -s for the ratios."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.activations import encoder_byte
from lvlm_atlas.roofline.deployment import IDEAL, TYPICAL, Deployment
from lvlm_atlas.roofline.layout import layout
from lvlm_atlas.roofline.model import Model, TokenRule
from lvlm_atlas.roofline.workload import Image, Video, Workload

README = {
    # device, request: tokens/s of decoding, seconds to the first token
    ("a100-sxm-80", "image"): (82.1, 0.043),
    ("rtx-4090", "image"): (61.9, 0.057),
    ("jetson-agx-orin-64", "image"): (11.6, 0.422),
    ("a100-sxm-80", "video"): (73.2, 0.719),
    ("rtx-4090", "video"): (58.4, 0.884),
    ("jetson-agx-orin-64", "video"): (10.9, 5.82),
}
"""NVILA-8B in 16 bits without dynamic S2: the README of NVlabs/VILA. It gives neither prompts nor lengths of answers;
taken are 32 tokens of text and 128 of answer, which move the times by a few per cent."""
REQUESTS = {
    "image": Workload(images=(Image(448, 448),), text_tokens=32, output_tokens=128),
    "video": Workload(videos=(Video(448, 448, 64, sample_fps=1),), text_tokens=32, output_tokens=128),
}
POOLED = 8
"""Frames whose tokens the video model averages: `pool_sizes` of the repository's training scripts."""
CLIP_BUFFER = {
    "qwen2-vl-7b": (1288, 4598, 267),
    "qwen2.5-vl-7b": (1288, 4872, 705),
    "qwen3-vl-8b": (1472, 4728, 323),
    "gemma-3-12b": (896, 1132, 121),
}
"""Side of the image in pixels; MiB that llama.cpp allocates for the encoder without flash attention, and with it:
gpustack/gguf-parser-go, issue 44. The sides are those of 46 x 46 tokens, from which the difference of the two numbers
follows, at 32 bits a score. llama.cpp computes the encoder in 32 bits."""
MIB = 2**20


def nvila(planner: Planner, pooled: int = POOLED) -> Model:
    """NVILA without dynamic S2: one tile an image, features of one scale; frames pooled over time."""
    model = planner.model("nvila-8b")
    tile = {"tile": 448, "patch": 14, "class_token": False}
    rule = TokenRule(
        image="fixed",
        image_params={**tile, "token_per_tile": 256},
        video="video_frames_as_tiles",
        video_params={**model.tokens.video_params, "token_per_frame": 256 // pooled},
    )
    _, *rest = model.adapter.widths
    return replace(model, tokens=rule, adapter=replace(model.adapter, widths=(4 * model.encoder.hidden, *rest)))


@pytest.mark.parametrize(("device", "request_"), README)
def test_the_ideal_is_never_slower_than_what_nvila_measures(planner: Planner, device: str, request_: str) -> None:
    tokens_s, ttft_s = README[device, request_]
    ratios = {}
    for efficiency in (IDEAL, TYPICAL):
        deployment = Deployment(efficiency=efficiency)
        found = planner.estimate(nvila(planner), device, REQUESTS[request_], deployment=deployment)
        ratios[efficiency.name] = (found.tpot_s * tokens_s, found.ttft_s / ttft_s)
    shown = "; ".join(f"{name}: a token {step:.2f}, the first {first:.2f}" for name, (step, first) in ratios.items())
    print(f"{device}, {request_}: predicted over measured, {shown}")
    assert max(ratios["ideal"]) <= 1
    assert 0.7 <= ratios["typical"][0] <= 1.3


def test_runtimes_come_near_what_nvila_measures(planner: Planner) -> None:
    """Times to the first token of videos, which the fit of TinyChat has not seen one by one, within half. They begin
    behind the decoding of the file.
    """
    decoded = Deployment(image_rate=1e9, video_rate=1e9)
    for (device, request_), (_, ttft_s) in README.items():
        if request_ == "video":
            found = planner.estimate(nvila(planner), device, REQUESTS[request_], deployment=decoded, runtime="tinychat")
            assert 0.5 <= found.ttft_s / ttft_s <= 1.7, device


FASTV = {0.75: (0.181, 0.203), 0.5: (0.155, 0.203), 0.25: (0.124, 0.203)}
"""LLaVA-1.5-13B on an A100, seconds to the first token with and without FastV: the entry, from its README."""


@pytest.mark.parametrize("keep", FASTV)
def test_a_gain_of_fastv_is_that_reported_once_the_host_counts(planner: Planner, keep: float) -> None:
    """The bound promises more than was seen, for want of the host's time."""
    request = planner.request(image="640x480", text=70, output=1)
    deployment = Deployment(attention="materialised")
    gains = {}
    for runtime in ("transformers", None):
        plain, pruned = (
            planner.estimate(
                "llava-1.5-13b", "a100-sxm-80", request, stack=stack, deployment=deployment, runtime=runtime
            )
            for stack in ("", f"fastv:keep_ratio={keep}")
        )
        gains[runtime] = plain.ttft_s / pruned.ttft_s
    after_s, before_s = FASTV[keep]
    assert 0.9 <= gains["transformers"] / (before_s / after_s) <= 1.15
    assert gains[None] > gains["transformers"]


@pytest.mark.parametrize("device", sorted({device for device, _ in README}))
def test_frames_of_256_tokens_each_would_beat_the_peak_of_the_device(planner: Planner, device: str) -> None:
    """The README's time to the first token says that frames are pooled: without, arithmetic alone takes longer."""
    _, ttft_s = README[device, "video"]
    assert planner.estimate(nvila(planner, pooled=1), device, REQUESTS["video"]).ttft_s > ttft_s


@pytest.mark.parametrize("model", CLIP_BUFFER)
def test_activations_of_the_encoder_are_of_the_size_that_llama_cpp_allocates(planner: Planner, model: str) -> None:
    side, *measured = CLIP_BUFFER[model]
    spec = planner.model(model)
    predicted = []
    for attention in ("materialised", "fused"):
        deployment = Deployment(attention=attention, activation_dtype="fp32")  # type: ignore[arg-type]
        found = planner.estimate(spec, "h200", Workload(images=(Image(side, side),)), deployment=deployment)
        predicted.append(encoder_byte(layout(spec, 1, deployment), found.state.encoded) / MIB)
    shown = [f"{ours:.0f} of {theirs}" for ours, theirs in zip(predicted, measured, strict=True)]
    print(f"{model}: MiB predicted of measured, materialised {shown[0]}, fused {shown[1]}")
    (square, line), (square_seen, line_seen) = predicted, measured
    assert square - line == pytest.approx(square_seen - line_seen, rel=0.06)
    assert line_seen / 2.5 <= line <= line_seen
