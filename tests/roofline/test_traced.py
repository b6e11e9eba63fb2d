"""Multiply-accumulates that another project traced on the real checkpoints, module by module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.vision import visual
from lvlm_atlas.roofline.workload import Image, Workload
from lvlm_atlas.schema.model import Model
from lvlm_atlas.specs.records import model_spec

CHECKOUT = Path(__file__).resolve().parents[2]
TRACED = {id_: each for id_, each in load(CHECKOUT).atlas.models.items() if each.traced}


def traced_request(planner: Planner, record: Model) -> Estimate:
    """The request of the trace: its image, and text up to its sequence length."""
    traced, model = record.traced, model_spec(record)
    assert traced is not None
    rule = replace(model.tokens, image_params={**model.tokens.image_params, **traced.params})
    model = replace(model, tokens=rule)
    image = Image(*traced.image)
    vision = visual(model, Workload(images=(image,))).llm_token
    request = Workload(images=(image,), text_tokens=traced.llm_sequence - vision, output_tokens=1)
    return planner.estimate(model, "h200", request, deployment=Deployment(unused_layers=True))


def mac(estimate: Estimate, part: str) -> float:
    """Multiply-accumulates of a part's linear layers, the output matrix aside."""
    works = (each.work for stage in estimate.stages.values() for each in stage.operators)
    return sum(
        work.flop / 2
        for work in works
        if work.kind == "linear" and work.name.startswith(part) and work.name != "llm.output"
    )


def test_there_are_traces() -> None:
    assert len(TRACED) >= 6


@pytest.mark.parametrize("id_", TRACED)
def test_token_counts_are_those_of_the_trace(planner: Planner, id_: str) -> None:
    traced, found = TRACED[id_].traced, traced_request(planner, TRACED[id_])
    assert traced is not None
    assert found.state.visual.encoder_token == traced.vit_tokens
    if traced.adapter_tokens is not None:
        assert found.state.visual.adapter_token == traced.adapter_tokens


@pytest.mark.parametrize("id_", [id_ for id_, each in TRACED.items() if each.traced and each.traced.llm_mac])
def test_multiply_accumulates_are_those_of_the_trace(planner: Planner, id_: str) -> None:
    record = TRACED[id_]
    traced, found = record.traced, traced_request(planner, record)
    assert traced is not None
    seen = mac(found, "encoder") + (mac(found, "adapter") if traced.vision_includes_adapter else 0)
    # The trace runs the output matrix at every position, where it counts it at all.
    head = traced.llm_sequence * record.llm.hidden * record.llm.vocab if traced.llm_includes_head else 0
    pairs = {
        "vision": (seen, traced.vision_mac),
        "adapter": (mac(found, "adapter"), traced.adapter_mac),
        "llm": (mac(found, "llm") + head, traced.llm_mac),
    }
    off = {name: got / want - 1 for name, (got, want) in pairs.items() if want}
    assert {"vision", "llm"} <= off.keys()
    assert all(abs(each) <= 0.01 for each in off.values()), off
