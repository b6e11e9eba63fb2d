"""The engine's FLOPs equal those that torch counts when the reference LVLM runs."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, whose FLOP counter is the ground of these tests")

# ruff: noqa: E402
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, bmm_flop

from lvlm_atlas import load
from lvlm_atlas.lab.built import built
from lvlm_atlas.needs import CALIBRATION
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.store import PlainStore
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, Trace, random_request
from lvlm_atlas.reference.lvlm.config import (
    Config,
    DeepStackLVLMConfig,
    LVLMConfig,
    NativeLVLMConfig,
    WindowLVLMConfig,
    WindowVisionConfig,
)
from lvlm_atlas.reference.lvlm.points import POINTS
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.lvlm.step import advance
from lvlm_atlas.reference.lvlm.technique import Technique as Reference
from lvlm_atlas.reference.lvlm.windows import coordinates, to_patches, whole, windows_of
from lvlm_atlas.reference.ops.attention import attend
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.model import Adapter, Encoder, Llm, Model, TokenRule
from lvlm_atlas.roofline.workload import Image, Video, Workload
from lvlm_atlas.schema.effect import Change, Schedule, Speculation
from lvlm_atlas.schema.expression import evaluate
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.specs.stack import Choice
from lvlm_atlas.specs.technique import applied

CHECKOUT = Path(__file__).resolve().parents[2]
TINY = [name for name in PRESETS if name.startswith("tiny")]
LARGE = [name for name in PRESETS if not name.startswith("tiny")]
SIZES = {"frames": 3, "text": 16, "output": 4}
TECHNIQUES = {
    id_: technique
    for id_, technique in load(CHECKOUT).atlas.techniques.items()
    if technique.reference
    and "answer" not in technique.acts_at
    and CALIBRATION not in technique.needs
    and not any(isinstance(effect, Speculation) or getattr(effect, "per_head", False) for effect in technique.effects)
}
"""Left out are drafts and answers in several runs, where what is accepted or answered decides what runs; what is
calibrated, of which one number cannot say what each layer does; and what leaves heads of different length, which
attention of the reference reads as if they were all as long as the longest."""
TRIALS = [(id_, i) for id_, technique in TECHNIQUES.items() for i in range(len(technique.trials))]


LINEAR, ATTENTION = "linear", "attention"
KINDS = {"convolution": LINEAR, "addmm": LINEAR, "mm": LINEAR, "bmm": ATTENTION}
"""Layers with weights run as products of two matrices, attention as batches of them."""


def model_of(config: Config) -> Model:
    """The engine's view of a reference model. Parameters are not counted: no FLOP depends on them."""
    vision, text = config.vision, config.text
    windows = isinstance(config, WindowLVLMConfig)
    encoder = Encoder(
        layers=vision.num_hidden_layers,
        layers_needed=config.encoder_layers,
        hidden=vision.hidden_size,
        mlp=vision.intermediate_size,
        gated_mlp=windows,
        heads=vision.num_attention_heads,
        head_dim=vision.hidden_size // vision.num_attention_heads,
        patch_size=vision.patch_size,
        temporal_patch_size=config.frames_a_patch,
        class_token=bool(config.class_tokens),
        full_attention_layers=frozenset(config.vision.full_attention_layers) if windows else None,
        parameters=1,
    )
    rows = vision.hidden_size * config.patches_a_token
    inner = rows if isinstance(config, NativeLVLMConfig) else text.hidden_size
    deepstack = len(config.vision.deepstack_layers) if isinstance(config, DeepStackLVLMConfig) else 0
    return Model(
        id="reference",
        name="reference",
        dtype="fp32",
        encoder=encoder,
        adapter=Adapter(widths=(rows, inner, text.hidden_size), copies=1 + deepstack, parameters=1),
        llm=Llm(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=text.head_dim,
            vocab=text.vocab_size,
            parameters=1,
        ),
        tokens=_rule(config),
    )


def _rule(config: Config) -> TokenRule:
    vision = config.vision
    if isinstance(config, LVLMConfig) and config.image_grid_pinpoints:
        tiled = {
            "tile": config.vision.image_size,
            "patch": vision.patch_size,
            "class_token": True,
            "pinpoints_hw": config.image_grid_pinpoints,
        }
        return TokenRule(image="anyres_unpad", image_params=tiled)
    if not isinstance(config, NativeLVLMConfig):
        fixed = {
            "tile": config.vision.image_size,
            "patch": vision.patch_size,
            "class_token": True,
            "token_per_tile": vision.patches,
        }
        return TokenRule(image="fixed", image_params=fixed)
    merge = config.vision.spatial_merge_size
    sizes = {
        "patch": vision.patch_size,
        "merge": merge,
        "min_pixels": 1,
        "max_pixels": 10**9,
    }
    if isinstance(config, WindowLVLMConfig):
        sizes["window"] = config.vision.window_size // config.vision.factor
    every_frame = {"min_frames": 1, "max_frames": 10**6, "multiple": 1}
    video = {**sizes, **every_frame, "temporal": config.frames_a_patch, "total_pixels": 10**12}
    return TokenRule(image="smart_resize", image_params=sizes, video="video_smart_resize", video_params=video)


def workload_of(config: Config, *, frames: int, text: int, output: int) -> Workload:
    """The engine's view of `random_request`."""
    height, width = config.frame_size
    video = isinstance(config, NativeLVLMConfig)
    return Workload(
        images=() if video else (Image(width, height, frames),),
        videos=(Video(width, height, frames, sample_fps=1, source_fps=1),) if video else (),
        text_tokens=text,
        output_tokens=output,
    )


class Counted:
    """FLOPs that torch counts while it is entered; attention runs as plain products of matrices."""

    def __init__(self) -> None:
        self.flop: Counter[str] = Counter()
        """FLOPs by kind of operator."""
        self.depth = 0

    def __enter__(self) -> Counted:
        self.depth += 1
        if self.depth > 1:
            return self

        def products(a: Tensor, b: Tensor, *_: Any, **_more: Any) -> int:
            flop = bmm_flop(a.shape, b.shape)
            if len(b) > 1 and b.stride(0) == 0:  # one matrix for all of the batch: a layer with weights after all
                self.flop.update({LINEAR: flop, ATTENTION: -flop})
            return int(flop)

        products._get_raw = True  # type: ignore[attr-defined]  # how torch is told to hand tensors over, not shapes
        self._kernel = sdpa_kernel(SDPBackend.MATH)
        self._counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.bmm: products})
        self._kernel.__enter__()
        self._counter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.depth -= 1
        if self.depth:
            return
        self._counter.__exit__(*error)
        self._kernel.__exit__(*error)
        for operator, flop in self._counter.get_flop_counts().get("Global", {}).items():
            self.flop[KINDS[str(operator).removeprefix("aten.")]] += flop


TAKES_THE_PLACE = {"encoder", "encoder-attention", "adapter"}
"""Positions at which what a technique computes takes the place of the model's own work."""


def watched(technique: Reference, own: Counted) -> Reference:
    """The same technique; what it adds to the model's work is counted in `own` too."""

    class Acting:
        def __init__(self, acting: Any) -> None:
            self.acting = acting

        def __getattr__(self, name: str) -> Any:
            method = getattr(self.acting, name)
            # What takes the place of the model's work is that; so is what a store does where layers attend.
            if name in {"attend", *(POINTS[position].method for position in TAKES_THE_PLACE)} or not callable(method):
                return method

            def call(*args: Any) -> Any:
                with own:
                    returned = method(*args)
                return Acting(returned) if name == "new_store" else returned

            return call

    class Watched(Reference):
        acts_at = technique.acts_at
        needs = tuple(need for need in technique.needs if need != CALIBRATION)
        withholds = technique.withholds

        def begin(self, run: Any) -> Any:
            return Acting(technique.begin(run))

    Watched.__name__ = type(technique).__name__
    return Watched()


def flop(found: Estimate, kind: str, stage: str | None = None, part: str = "") -> float:
    """FLOPs of a kind of operator, in one stage or in all, of one part of the model or of all."""
    stages = found.stages.values() if stage is None else [found.stages[stage]]
    works = [each.work for one in stages for each in one.operators]
    return sum(work.flop for work in works if work.kind == kind and work.name.startswith(part))


def predicted(
    planner: Planner,
    preset: str,
    stack: tuple[Choice, ...] = (),
    *,
    attention: Literal["fused", "materialised"] = "materialised",
    **sizes: int,
) -> Estimate:
    """The engine's estimate of what `run` runs: encoder layers that are needed, whole squares of scores."""
    config, device = PRESETS[preset], planner.device("h200")
    deployment = Deployment(attention=attention, unused_layers=False)
    techniques = [applied(planner.kb.atlas, each.technique, each.setting, each.outcomes) for each in stack]
    return estimate(model_of(config), device, workload_of(config, **sizes), deployment, techniques)


def run(preset: str, technique: Reference | None, **sizes: int) -> tuple[Counter[str], Counter[str], Trace]:
    """FLOPs of the model's own, those of the technique, and the trace."""
    lvlm = LVLM.random(preset)
    request = random_request(
        lvlm.config, frames=sizes["frames"], text_tokens=sizes["text"], max_new_tokens=sizes["output"]
    )
    own, all_ = Counted(), Counted()
    with all_:
        result = lvlm.run(request, [] if technique is None else [watched(technique, own)])
    all_.flop.subtract(own.flop)
    return all_.flop, own.flop, result.trace


@cache
def run_trial(preset: str, id_: str, trial: int) -> tuple[Counter[str], Counter[str], Trace, Choice]:
    """A run with a trial of a technique, and the choice that the engine takes for it."""
    technique = TECHNIQUES[id_]
    setting = dict(technique.trials[trial])
    try:
        model, own, trace = run(preset, built(str(technique.reference), setting, LVLM.random(preset)), **SIZES)
    except ValueError as refusal:
        pytest.skip(f"{id_} refuses {preset}: {refusal}")
    heads = PRESETS[preset].text.num_attention_heads
    return model, own, trace, Choice(technique, setting, outcomes(technique, setting, trace, heads))


def outcomes(technique: Technique, setting: Mapping[str, Setting], trace: Trace, heads: int) -> dict[str, float]:
    """What the data decided in a run, for every effect of which the entry gives bounds alone."""
    numbers = {name: setting.get(name, parameter.default) for name, parameter in technique.parameters.items()}
    decided: dict[str, float] = {}
    for effect in technique.effects:
        if getattr(effect, "limit_at_least", None) is not None:
            pytest.skip("data decide which new tokens are held, and no outcome tells the engine how many")
        if isinstance(effect, Change) and (effect.at_most is not None or effect.at_least is not None):
            if effect.quantity not in COUNTED:
                pytest.skip(f"data decide {effect.quantity}, and no outcome tells the engine how much it is")
            first = int(evaluate(effect.from_layer, numbers)) if isinstance(effect, Schedule) else 0
            name, counted = OUTCOME_OF.get(effect.quantity, "tokens"), COUNTED[effect.quantity]
            if getattr(effect, "of", "all") == "vision":
                counted = COUNTED["kv.tokens: vision"]
            value = counted(trace, first, heads)
            if decided.get(name, value) != value:
                pytest.skip(f"data decide several counts, and one outcome, {name}, cannot say them all")
            decided[name] = value
    return decided


def density(trace: Trace, first: int, heads: int) -> float:
    """Share of the causal scores that are computed from a layer on."""
    return sum(trace.score_entries[first:]) / sum(heads * n * (n + 1) / 2 for n in trace.llm_tokens[first:])


OUTCOME_OF = {"attention.density": "density", "frames": "frames"}
"""The outcome that sets a quantity; counts of tokens share one."""
COUNTED: dict[str, Callable[[Trace, int, int], float]] = {
    "frames": lambda trace, first, heads: trace.frames,
    "encoder.tokens": lambda trace, first, heads: trace.encoder_tokens[-1],
    "vision-tokens": lambda trace, first, heads: trace.llm_vision_tokens[0],
    "llm.vision-tokens": lambda trace, first, heads: trace.llm_vision_tokens[-1],
    "attention.density": density,
    "kv.tokens": lambda trace, first, heads: sum(trace.kv_entries[first:]) / len(trace.kv_entries[first:]),
    "kv.tokens: vision": lambda trace, first, heads: (
        sum(trace.kv_vision_entries[first:]) / len(trace.kv_vision_entries[first:])
    ),
    "output-tokens": lambda trace, first, heads: trace.output_tokens,
}
"""What a trace counts of each quantity, from the layer on in which an effect starts."""


@pytest.mark.parametrize(("frames", "output"), [(1, 1), (2, 2), (5, 9)])
@pytest.mark.parametrize("preset", TINY)
def test_linear_layers_and_attention_equal_those_of_a_run(
    planner: Planner, preset: str, frames: int, output: int
) -> None:
    sizes = {"frames": frames, "text": 11, "output": output}
    seen, _, _ = run(preset, None, **sizes)
    found = predicted(planner, preset, **sizes)
    assert seen == {kind: flop(found, kind) for kind in (LINEAR, ATTENTION)}


@pytest.mark.parametrize("preset", TINY)
@pytest.mark.parametrize(("id_", "trial"), TRIALS)
def test_bytes_of_the_cache_and_flops_equal_those_of_a_run_with_a_technique(
    planner: Planner, preset: str, id_: str, trial: int
) -> None:
    model, own, trace, choice = run_trial(preset, id_, trial)
    found = predicted(planner, preset, (choice,), **SIZES)
    holds_as_many_bytes(found, trace, choice)
    attention = flop(found, ATTENTION)
    if "projections" in TECHNIQUES[id_].acts_at:
        # Its matrices are its own; of what they take the entry gives bounds, on top of the model's.
        every = sum(each.work.flop for stage in found.stages.values() for each in stage.operators)
        assert model.total() + own.total() <= every
        return
    if any(effect.quantity == "adapter.flop" for effect in TECHNIQUES[id_].effects):
        # Of what takes the adapter's place an entry says the sum, whatever it is made of.
        assert model.total() == pytest.approx(flop(found, LINEAR) + attention, rel=1e-12)
        return
    if "encoder" in TECHNIQUES[id_].acts_at:
        # The FLOPs of what takes its place are spread over the operators of the model's own encoder.
        both = flop(found, LINEAR) + attention
        assert sum(model[kind] for kind in (LINEAR, ATTENTION)) == pytest.approx(both, rel=1e-12)
        return
    if "adapter-output" in TECHNIQUES[id_].acts_at and TECHNIQUES[id_].effects[0].at == "encoder-output":
        # Frames of different lengths are filled up to the longest for the adapter.
        most = predicted(planner, preset, (dataclasses.replace(choice, outcomes={"tokens": 1e9}),), **SIZES)
        assert flop(found, LINEAR) <= model[LINEAR] <= flop(most, LINEAR)
    else:
        assert model[LINEAR] == flop(found, LINEAR)
    if any(effect.quantity == "kv.state" for effect in TECHNIQUES[id_].effects):
        return  # a state has no scores; the reference reads a prompt in chunks, of which the engine knows nothing
    if "attention" not in TECHNIQUES[id_].acts_at:
        attention += own_entries(TECHNIQUES[id_], preset)
        assert model[ATTENTION] == pytest.approx(attention, rel=1e-12)
        return
    # Chosen blocks are computed as rectangles and pairs under a mask; the trace counts the scores that are seen.
    text = PRESETS[preset].text
    fused = predicted(planner, preset, (choice,), attention="fused", **SIZES)
    scores = 4 * text.head_dim * sum(trace.score_entries)
    squares = 4 * text.head_dim * text.num_attention_heads * sum(n * n for n in trace.llm_tokens)
    assert flop(fused, ATTENTION, "prefilling") == pytest.approx(scores, rel=1e-12)
    if hasattr(pkgutil.resolve_name(str(TECHNIQUES[id_].reference).partition(":")[0]), "Replacement"):
        return  # it computes attention itself, which is counted as its own
    assert scores < model[ATTENTION] - (attention - flop(found, ATTENTION, "prefilling")) <= squares


def holds_as_many_bytes(found: Estimate, trace: Trace, choice: Choice) -> None:
    """Once the prompt is in, and at the end, where quantisation has moved on."""
    memory = found.memory
    assert memory.kv_byte == pytest.approx(sum(trace.kv_byte), rel=1e-12)
    assert memory.kv_peak_byte == pytest.approx(trace.kv_byte_end, rel=1e-12)
    if trace.kv_vision_entries and not choice.technique.effects[0].quantity.startswith("kv"):
        share = sum(trace.kv_vision_entries) / sum(trace.kv_entries)
        assert memory.kv_vision_byte == pytest.approx(share * memory.kv_byte, rel=1e-12)


def own_entries(technique: Technique, preset: str) -> int:
    """What steps read beyond the estimate: a full cache evicts after a step, which still reads its own entry too."""
    if not any(getattr(effect, "limit", None) for effect in technique.effects):
        return 0
    text = PRESETS[preset].text
    return 4 * text.head_dim * text.num_attention_heads * text.num_hidden_layers * (SIZES["output"] - 1)


def test_linear_layers_and_attention_equal_those_of_a_run_with_a_stack(planner: Planner) -> None:
    settings = {"tome": {"r": 5}, "divprune": {"ratio": 0.7}, "fastv": {"keep_ratio": 0.4}, "kivi": {"group_size": 8}}
    choices = [Choice(TECHNIQUES[id_], dict(setting)) for id_, setting in settings.items()]
    stack = [pkgutil.resolve_name(str(each.technique.reference))(**each.setting) for each in choices]
    own, all_ = Counted(), Counted()
    lvlm = LVLM.random("tiny")
    request = random_request(lvlm.config, frames=3, text_tokens=16, max_new_tokens=SIZES["output"])
    with all_:
        lvlm.run(request, [watched(each, own) for each in stack])
    all_.flop.subtract(own.flop)
    found = predicted(planner, "tiny", tuple(choices), **SIZES)
    assert all_.flop == {kind: flop(found, kind) for kind in (LINEAR, ATTENTION)}


@pytest.mark.parametrize("preset", TINY)
@pytest.mark.parametrize(("id_", "trial"), [each for each in TRIALS if each[0] in ("fastv", "look-m")])
def test_rows_of_attention_that_a_technique_reads_cost_what_torch_counts(
    planner: Planner, preset: str, id_: str, trial: int
) -> None:
    _, own, _, choice = run_trial(preset, id_, trial)
    if choice.setting.get("strict") is False:
        pytest.skip("how much is evicted, and compared with what is kept, depends on the data")
    assert own[ATTENTION] == flop(predicted(planner, preset, (choice,), **SIZES), "technique", "prefilling")


@pytest.mark.parametrize("preset", TINY)
@pytest.mark.parametrize("trial", range(len(TECHNIQUES["divprune"].trials)))
def test_distances_of_divprune_cost_what_torch_counts(planner: Planner, preset: str, trial: int) -> None:
    _, own, trace, choice = run_trial(preset, "divprune", trial)
    comparisons = round(trace.vision_tokens * float(choice.setting["ratio"])) * trace.vision_tokens
    assert own[ATTENTION] + comparisons == flop(predicted(planner, preset, (choice,), **SIZES), "technique")


@pytest.mark.parametrize("preset", ["tiny", "tiny-mha"])
@pytest.mark.parametrize("trial", range(len(TECHNIQUES["visionzip"].trials)))
def test_compression_of_visionzip_costs_what_torch_counts(planner: Planner, preset: str, trial: int) -> None:
    _, own, _, choice = run_trial(preset, "visionzip", trial)
    vision, dominant, contextual = PRESETS[preset].vision, *map(int, choice.setting.values())
    # The entry takes heads of width 64, as CLIP has them.
    narrower = 64 - vision.hidden_size // vision.num_attention_heads
    left = vision.patches + 1 - dominant - contextual
    beside = 2 * SIZES["frames"] * left * contextual * narrower if left > 0 else 0
    assert own[ATTENTION] + beside == flop(predicted(planner, preset, (choice,), **SIZES), "technique")


@pytest.mark.parametrize("preset", LARGE)
def test_published_shapes_equal_torch_on_the_meta_device(planner: Planner, preset: str) -> None:
    lvlm, sizes = LVLM.empty(PRESETS[preset]), {"frames": 2, "text": 100, "output": 3}
    found = predicted(planner, preset, **sizes)
    vision = found.state.visual.llm_token
    with Counted() as encoding, torch.inference_mode():
        assert see(lvlm, sizes["frames"]) == vision
    prefilling, decoding = language(lvlm, vision + sizes["text"], steps=sizes["output"] - 1)
    for name, seen in (("encoding", encoding), ("prefilling", prefilling), ("decoding", decoding)):
        assert seen.flop == {kind: flop(found, kind, name) for kind in (LINEAR, ATTENTION)}, name


def see(lvlm: LVLM, frames: int) -> int:
    """Run encoder and adapter on frames without content; how many vision tokens leave."""
    config = lvlm.config
    pixels = torch.empty(frames, 3, *config.frame_size, device="meta")
    if isinstance(config, WindowLVLMConfig):
        patches = windowed(lvlm, config.vision, pixels)
    else:
        patches = lvlm.dialect.patches(pixels, Trace(), lambda _layer, _layers, patches: patches)
    return int(lvlm.dialect.adapter(lvlm.dialect.features(patches))[..., 0].numel())


def windowed(lvlm: LVLM, config: WindowVisionConfig, pixels: Tensor) -> Patches:
    """What `WindowTower.forward` does, with the windows found on the CPU: the meta device cannot count."""
    tower = lvlm.dialect.vision_tower
    rows, columns = (side // config.patch_size for side in config.frame_size)
    place = coordinates(rows, columns, config, torch.device("cpu"))
    angle = torch.empty(1, rows * columns, config.hidden_size // config.num_attention_heads // 2, device="meta")
    patches = Patches(tower.patch_embed(to_patches(pixels, config)), prefix=0, grid=(rows, columns))
    for index, block in enumerate(tower.blocks):
        windows = whole(place) if index in config.full_attention_layers else windows_of(place, config)
        patches = block(patches, angle, windows, lambda patches: patches, lambda _: None)
    return patches


def language(lvlm: LVLM, length: int, steps: int) -> tuple[Counted, Counted]:
    """Run a prompt without content and a few steps."""
    text, model = lvlm.config.text, lvlm.language_model
    cache = Cache([], [], next_position=torch.zeros(text.num_hidden_layers, 1, dtype=torch.long, device="meta"))
    hidden = torch.empty(1, length, text.hidden_size, device="meta")
    position = torch.empty(1, length, 3 if text.rope_sections else 1, device="meta")
    with Counted() as prefilling, torch.inference_mode():
        for layer in model.layers:
            query, key, value = layer.project(hidden, position)
            store = PlainStore()
            store.append(key, value)
            store.settle()
            cache.stores.append(store)
            hidden = layer.finish(hidden, attend(query, key, value, causal=True))
        model.logits(hidden[:, -1:])
    with Counted() as decoding, torch.inference_mode():
        for _ in range(steps):
            advance(model, torch.zeros(1, 1, dtype=torch.long), cache)
            cache.retain(torch.zeros(1, dtype=torch.long))
    return prefilling, decoding
