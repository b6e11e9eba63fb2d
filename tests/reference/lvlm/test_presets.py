"""Presets: published shapes without a byte allocated, random weights made where they are needed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lvlm_atlas.reference.lvlm import LVLM
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.lvlm.weights import DRAWN_ON_DEVICE, fill


def numbers(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_llava_has_the_parameters_of_the_published_model() -> None:
    lvlm = LVLM.empty(PRESETS["llava-1.5-7b"])
    assert numbers(lvlm.dialect.vision_tower) == 303_507_456
    assert numbers(lvlm.dialect.adapter) == 20_979_712
    # Vicuna's, and the 64 rows by which the published folder pads embedding and head.
    assert numbers(lvlm.language_model) == 6_738_415_616 + 2 * 64 * 4096


@pytest.mark.parametrize(
    ("preset", "adapter", "decoder"),
    [("qwen2.5-vl-3b", 36_708_608, 3_085_938_688), ("qwen2.5-vl-7b", 44_574_464, 7_615_616_512)],
)
def test_qwen_has_the_parameters_of_the_published_models(preset: str, adapter: int, decoder: int) -> None:
    lvlm = LVLM.empty(PRESETS[preset])
    assert numbers(lvlm.dialect.vision_tower) == 631_975_680
    assert numbers(lvlm.dialect.adapter) == adapter
    assert numbers(lvlm.language_model) == decoder


def test_qwen3_has_the_parameters_of_the_published_model() -> None:
    lvlm = LVLM.empty(PRESETS["qwen3-vl-8b"])
    deepstack = numbers(lvlm.dialect.vision_tower.deepstack_merger_list)
    assert numbers(lvlm.dialect.vision_tower) - deepstack == 415_891_440
    assert numbers(lvlm.dialect.adapter) + deepstack == 160_496_896
    assert numbers(lvlm.language_model) == 8_190_735_360


@pytest.mark.parametrize("preset", PRESETS)
def test_an_empty_model_takes_no_memory(preset: str) -> None:
    lvlm = LVLM.empty(PRESETS[preset])
    assert {weight.device.type for weight in lvlm.parameters()} == {"meta"}
    assert not list(lvlm.buffers())  # nothing that loading weights would leave empty


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(4, 4)
        self.large = nn.Linear(1024, DRAWN_ON_DEVICE // 1024)
        self.again = nn.Linear(1024, DRAWN_ON_DEVICE // 1024, bias=False)
        self.again.weight = self.large.weight


def test_weights_are_made_in_their_type_and_place_and_shared_ones_stay_shared(device: str) -> None:
    with torch.device("meta"):
        empty = Wide()
    model = fill(empty, seed=3, dtype=torch.bfloat16, device=device)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert {weight.device.type for weight in model.parameters()} == {torch.device(device).type}
    assert model.again.weight is model.large.weight
    assert abs(float(model.large.weight.float().std()) * 32 - 1) < 0.01
    with torch.device("meta"):
        empty = Wide()
    again = fill(empty, seed=3, dtype=torch.bfloat16, device=device)
    assert torch.equal(again.large.weight, model.large.weight)
    assert not model.small.bias.any()
