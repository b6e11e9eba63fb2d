"""The LLaVA dialect gives what the published class gives on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm import LVLM, Request

IMAGE, TOLERANCE, STEPS = 95, 1e-4, 32

CONFIGS: dict[str, dict[str, Any]] = {
    "multi-head": {},
    "grouped heads, deep": {"text": {"num_key_value_heads": 2, "num_hidden_layers": 5}},
    "one group, wide heads": {"text": {"num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-3}},
    "last layer, class token kept": {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
    "second layer, class token kept": {"vision_feature_layer": 2, "vision_feature_select_strategy": "full"},
    "last layer": {"vision_feature_layer": -1, "vision": {"num_hidden_layers": 1, "num_attention_heads": 2}},
    "biases, tied head, other activations": {
        "text": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "hidden_act": "gelu"},
        "vision": {"hidden_act": "gelu", "layer_norm_eps": 1e-3},
        "projector_hidden_act": "relu",
        "multimodal_projector_bias": False,
        "tie_word_embeddings": True,
    },
    "other base of the rotation": {
        "text": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        "vision": {"patch_size": 14, "num_hidden_layers": 4},
    },
}


@pytest.fixture(params=CONFIGS)
def pair(
    request: pytest.FixtureRequest, llava: Callable[..., nn.Module], save: Callable[..., Path], tmp_path: Path
) -> tuple[Any, LVLM]:
    """The published model and ours, loaded from what it saved."""
    theirs = llava(**CONFIGS[request.param])
    return theirs, LVLM.from_pretrained(save(theirs, tmp_path))


def inputs(lvlm: LVLM, images: int, batch: int) -> dict[str, Tensor]:
    """What a processor returns: a row with all the images and, in a batch, a shorter one padded on the left."""
    generator = torch.Generator().manual_seed(images)
    side, full = lvlm.config.vision.image_size, lvlm.config.vision_feature_select_strategy == "full"
    placeholders = torch.full((lvlm.config.vision.patches + full,), IMAGE)
    rows, frames = [], 0
    for row in range(batch):
        words = torch.randint(1, IMAGE, (24,), generator=generator).split([2, 3, 4, 15])
        count = images if row == 0 else 1
        parts = [part for word in words[:count] for part in (word, placeholders)]
        rows.append(torch.cat([*parts, words[3][: 15 - 4 * row]]))
        frames += count
    length = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(ids, (length - len(ids), 0)) for ids in rows])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(ids), (length - len(ids), 0)) for ids in rows])
    pixels = torch.randn(frames, 3, side, side, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def one_placeholder_a_frame(ids_N: Tensor) -> Tensor:
    repeated = (ids_N == IMAGE) & (ids_N.roll(1) == IMAGE)
    return ids_N[~repeated]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("images", [1, 3])
def test_prefill_and_greedy_answers_are_those_of_the_published_class(
    pair: tuple[Any, LVLM], greedy: Callable[..., Tensor], images: int, batch: int
) -> None:
    theirs, ours = pair
    processed = inputs(ours, images, batch)
    real = processed["attention_mask"].bool()
    with torch.inference_mode():
        expected, got = theirs(**processed).logits, ours(**processed)
    assert got.shape == (*real.shape, 96)
    assert float((expected - got)[real].abs().max()) < TOLERANCE
    assert torch.equal(ours.generate(**processed, max_new_tokens=STEPS), greedy(theirs, STEPS, **processed)[0])


def test_a_run_without_techniques_decodes_the_same(pair: tuple[Any, LVLM], greedy: Callable[..., Tensor]) -> None:
    theirs, ours = pair
    processed = inputs(ours, 3, 1)
    request = Request(
        frames_F3HW=processed["pixel_values"],
        prompt_N=one_placeholder_a_frame(processed["input_ids"][0]),
        image_token_id=IMAGE,
        max_new_tokens=STEPS,
    )
    result = ours.run(request)
    tokens, logits = greedy(theirs, STEPS, **processed)
    assert torch.equal(result.tokens_N, tokens[0])
    assert float((result.logits_NC - logits[0]).abs().max()) < TOLERANCE


def test_text_alone_is_answered_too(llava: Callable[..., nn.Module], save: Callable[..., Path], tmp_path: Path) -> None:
    theirs = llava()
    ours = LVLM.from_pretrained(save(theirs, tmp_path))
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids), theirs(input_ids=ids).logits, atol=TOLERANCE, rtol=0)


def test_what_stands_in_the_padding_does_not_matter(
    llava: Callable[..., nn.Module], save: Callable[..., Path], tmp_path: Path
) -> None:
    ours = LVLM.from_pretrained(save(llava(), tmp_path))
    one = inputs(ours, 3, 2)
    other = {**one, "input_ids": one["input_ids"].where(one["attention_mask"].bool(), 7)}
    real = one["attention_mask"].bool()
    assert torch.equal(ours(**one)[real], ours(**other)[real])


def test_as_many_placeholders_as_vision_tokens_are_asked_for(
    llava: Callable[..., nn.Module], save: Callable[..., Path], tmp_path: Path
) -> None:
    ours = LVLM.from_pretrained(save(llava(), tmp_path))
    processed = inputs(ours, 3, 1)
    with pytest.raises(ValueError, match="places for 48 vision tokens, the encoder gave 32"):
        ours(processed["input_ids"], pixel_values=processed["pixel_values"][:2])
    with pytest.raises(ValueError, match=r"pixel_values must be \(F, 3, 28, 28\), got \(3, 3, 14, 14\)"):
        ours(processed["input_ids"], pixel_values=processed["pixel_values"][..., :14, :14])
