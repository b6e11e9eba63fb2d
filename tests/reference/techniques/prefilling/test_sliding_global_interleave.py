"""Sliding–global interleave."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.techniques.prefilling.sliding_global_interleave import (
    SlidingGlobalInterleave,
    is_global,
    newest,
)

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def test_the_last_layer_of_each_group_is_global() -> None:
    assert [layer for layer in range(48) if is_global(layer, 6)] == [5, 11, 17, 23, 29, 35, 41, 47]  # as Gemma 3 12B
    assert all(is_global(layer, 1) for layer in range(5))


def test_the_newest_visible_entries_stay(device: str) -> None:
    visible = torch.tensor([[[False, True, True, True, True]], [[True] * 5]], device=device)
    assert newest(visible, 2).tolist() == [[[False, False, False, True, True]]] * 2
    assert newest(visible, 4)[0, 0].tolist() == [False, True, True, True, True]
    assert newest(visible, 9).equal(visible)


def test_local_layers_alone_are_bounded(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    trace = lvlm.run(request, [SlidingGlobalInterleave(window_size=16, pattern=2)]).trace
    local, dense = 4 * (16 * 17 // 2 + 384 * 16), 4 * 400 * 401 // 2
    assert trace.score_entries == [local, dense, local, dense]
    assert trace.kv_entries == [15, 400, 15, 400]
    assert [*trace.kv_most_entries][::2] == [15, 15]
    assert trace.kv_most_entries[1] > 400


@pytest.mark.parametrize("preset", ["tiny", "tiny-mha", "tiny-window"])
def test_a_decoded_token_sees_as_many_as_one_of_the_prompt(preset: str, device: str) -> None:
    """Text that is decoded and text that is read give the same."""
    model, technique = LVLM.random(preset, device=device), SlidingGlobalInterleave(window_size=7, pattern=2)
    request = random_request(model.config, frames=2, text_tokens=9, max_new_tokens=6)
    result = model.run(request, [technique])
    read = torch.cat([request.prompt_N, result.tokens_N[:-1].to(request.prompt_N.device)])
    longer = model.run(replace(request, prompt_N=read, max_new_tokens=1), [technique])
    torch.testing.assert_close(longer.logits_NC[-1], result.logits_NC[-1], **CLOSE)
    wider = model.run(request, [replace(technique, window_size=8)])
    assert not torch.allclose(wider.logits_NC[0], result.logits_NC[0], atol=1e-3)


def test_a_round_looks_back_into_the_cache(lvlm: LVLM) -> None:
    frames_F3HW = random_request(lvlm.config, frames=3).frames_F3HW
    answers = []
    for rounds in ((3,), (1, 2)):
        stream = lvlm.stream([SlidingGlobalInterleave(window_size=50, pattern=2)])
        for part_F3HW in frames_F3HW.split(rounds):
            stream.see(part_F3HW)
        answers.append(stream.ask(torch.arange(10, 20), 3).logits_NC)
    torch.testing.assert_close(*answers, **CLOSE)


def test_all_layers_global_or_a_wide_window_change_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    plain = lvlm.run(request)
    for technique in (SlidingGlobalInterleave(16, 1), SlidingGlobalInterleave(1024, 6)):
        same = lvlm.run(request, [technique])
        torch.testing.assert_close(same.logits_NC, plain.logits_NC)
        assert same.trace.kv_entries == plain.trace.kv_entries


@pytest.mark.parametrize("wrong", [{"window_size": 1}, {"pattern": 0}])
def test_illegal_values_are_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SlidingGlobalInterleave(**wrong)
