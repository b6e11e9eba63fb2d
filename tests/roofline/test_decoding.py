"""Decoding in closed form against its steps one by one, and against a cache simulated entry by entry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.model import Llm
from lvlm_atlas.roofline.stage import Stage
from lvlm_atlas.roofline.workload import Image, Workload

MODELS = ["qwen2.5-vl-7b", "gemma-3-12b", "llama-3.2-11b-vision", "deepseek-vl2", "qwen3-vl-30b-a3b", "internvl3.5-8b"]
REQUESTS = {
    "short": Workload(images=(Image(640, 480),), text_tokens=20, output_tokens=60),
    "turns": Workload(images=(Image(640, 480, 2),), text_tokens=90, output_tokens=40, turns=4, batch=3),
    "crossing": Workload(images=(Image(640, 480, 3),), text_tokens=90, output_tokens=50, turns=4),
    "long": Workload(images=(Image(640, 480, 3),), text_tokens=300, output_tokens=500),
}


def one_by_one(planner: Planner, model: str, workload: Workload, stack: tuple[str, ...]) -> Iterator[Stage]:
    """Each decoding step alone: the only one after a prompt that is as long as the cache was by then."""
    for turn in range(workload.turns):
        for step in range(workload.output_tokens - 1):
            text = workload.text_tokens + turn * (workload.text_tokens + workload.output_tokens) + step
            alone = replace(workload, text_tokens=text, output_tokens=2, turns=1)
            yield planner.estimate(model, "h200", alone, stack=stack).stages["decoding"]


def closed(planner: Planner, model: str, workload: Workload, stack: tuple[str, ...] = ()) -> Estimate:
    return planner.estimate(model, "h200", workload, stack=stack)


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("model", MODELS)
def test_the_closed_form_is_the_sum_of_the_steps(planner: Planner, model: str, request_: str) -> None:
    steps = list(one_by_one(planner, model, REQUESTS[request_], ()))
    found = closed(planner, model, REQUESTS[request_])
    decoding = found.stages["decoding"]
    assert decoding.flop == pytest.approx(sum(step.flop for step in steps), rel=1e-12)
    assert decoding.byte == pytest.approx(sum(step.byte for step in steps), rel=1e-12)
    assert decoding.time_s == pytest.approx(sum(step.time_s for step in steps), rel=1e-12)
    assert found.tpot_s == pytest.approx(decoding.time_s / len(steps), rel=1e-12)
    vision = sum(each.work.vision_byte for step in steps for each in step.operators)
    assert found.visual_kv_share == pytest.approx(vision / decoding.byte, rel=1e-12)


@pytest.mark.parametrize(
    "stack", [("kivi",), ("kivi:bits=4,residual_length=32",), ("fastv", "kivi:residual_length=64")]
)
@pytest.mark.parametrize("request_", REQUESTS)
def test_the_sawtooth_of_a_quantised_cache_is_met_within_one_percent(
    planner: Planner, request_: str, stack: tuple[str, ...]
) -> None:
    """The bytes of the cache; the exact keys rise to the residual length and fall to 0, over and over."""

    def kv(stages: Iterator[Stage]) -> float:
        return sum(each.work.kv_byte for stage in stages for each in stage.operators)

    exact = kv(one_by_one(planner, "qwen2.5-vl-7b", REQUESTS[request_], stack))
    found = kv(iter([closed(planner, "qwen2.5-vl-7b", REQUESTS[request_], stack).stages["decoding"]]))
    print(stack, request_, f"{found / exact - 1:+.3%}")
    assert found == pytest.approx(exact, rel=0.01)


def simulated(llm: Llm, workload: Workload, vision: int) -> tuple[int, int, int]:
    """Query-key pairs of decoding, those with a vision token, and pairs of the prompts after the first; all layers.

    The cache is a list with an entry for each token, True where it is vision.
    """
    pairs = seen = later = 0
    for layer in range(llm.layers):
        window = llm.window if layer in llm.local_layers and llm.window else 10**9
        cache = [True] * vision + [False] * workload.text_tokens
        for turn in range(workload.turns):
            if turn:
                for _ in range(1 + workload.text_tokens):  # the last answer's last token, and the question
                    cache.append(False)
                    later += len(cache[-window:])
            for _ in range(workload.output_tokens - 1):
                cache.append(False)
                pairs += len(cache[-window:])
                seen += sum(cache[-window:])
    return pairs, seen, later


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("model", ["qwen2.5-vl-7b", "gemma-3-12b"])
def test_entries_are_those_of_a_simulated_cache(planner: Planner, model: str, request_: str) -> None:
    workload, llm = REQUESTS[request_], planner.model(model).llm
    found = closed(planner, model, workload)
    pairs, seen, later = simulated(llm, workload, found.state.visual.llm_token)
    decoding = [each.work for each in found.stages["decoding"].operators if each.work.kind == "attention"]
    flop, entry = 4 * llm.heads * llm.head_dim, 2 * llm.kv_heads * llm.head_dim * 2
    assert sum(work.flop for work in decoding) == pytest.approx(workload.batch * pairs * flop, rel=1e-12)
    assert sum(work.kv_byte for work in decoding) == pytest.approx(workload.batch * pairs * entry, rel=1e-12)
    assert sum(work.vision_byte for work in decoding) == pytest.approx(workload.batch * seen * entry, rel=1e-12)
    asked = [each.work for each in found.stages["prefilling"].operators if each.work.kind == "attention"]
    alone = closed(planner, model, replace(workload, turns=1)).stages["prefilling"].operators
    first = sum(each.work.flop for each in alone if each.work.kind == "attention")
    assert sum(work.flop for work in asked) - first == pytest.approx(workload.batch * later * flop, rel=1e-9)
