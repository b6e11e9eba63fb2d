"""LLaVA-PruMerge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.ops.outliers import outlier_ratio
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.llava_prumerge import (
    LlavaPruMerge,
    kept_places,
    look,
    merge,
)
from lvlm_atlas.reference.techniques.encoding.tome import ToMe


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


@pytest.mark.parametrize("seed", range(20))
def test_outliers_lie_above_the_upper_fence(device: str, seed: int) -> None:
    value = torch.randn(3, 37, generator=torch.Generator().manual_seed(seed)).exp()
    low, high = np.percentile(value.numpy().astype("float64"), [25, 75])
    expected = (value.double() > high + 1.5 * (high - low)).double().mean()
    assert outlier_ratio(value.to(device)) == float(expected)


def test_equal_values_have_no_outlier(device: str) -> None:
    assert outlier_ratio(torch.full((2, 64), 1 / 65, device=device)) == 0


def test_the_count_is_rounded_down_and_the_earlier_of_equals_comes_first(device: str) -> None:
    attention = torch.tensor([[0.1, 0.3, 0.2, 0.3, 0.1]], device=device)
    assert kept_places(attention, 0.79).tolist() == [[1, 3, 2]]
    assert kept_places(attention, 0.19).shape == (1, 0)


HIDDEN = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [0.0, 4.0]])
ATTENTION = torch.tensor([0.4, 0.3, 0.2, 0.1])
KEY = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])


def test_neighbours_are_kept_and_dropped_patches_alike(device: str) -> None:
    merged = merge(HIDDEN.to(device), ATTENTION.to(device), KEY.to(device), torch.tensor([0, 1], device=device), 1)
    expected = [[1.0, 0.3], [0.4, 1.0], [0.4, 0.8]]  # each other's neighbour; then 0.2 · (2, 2) + 0.1 · (0, 4)
    torch.testing.assert_close(merged.cpu(), torch.tensor(expected))


def test_weights_are_not_normalised(device: str) -> None:
    merged = merge(HIDDEN.to(device), ATTENTION.to(device), KEY.to(device), torch.tensor([2], device=device), 99)
    everything = ATTENTION[:, None] * HIDDEN
    torch.testing.assert_close(merged[0].cpu(), HIDDEN[2] + everything[[0, 1, 3]].sum(0))
    torch.testing.assert_close(merged[1].cpu(), everything[[0, 1, 3]].sum(0))


def test_without_weights_kept_patches_stay_themselves(device: str) -> None:
    kept = torch.tensor([3, 0], device=device)
    merged = merge(HIDDEN.to(device), torch.zeros(4, device=device), KEY.to(device), kept)
    assert merged.tolist() == [*HIDDEN[[3, 0]].tolist(), [0.0, 0.0]]


def features(lvlm: LVLM) -> Patches:
    frames = random_request(lvlm.config, frames=2).frames_F3HW.to(lvlm.device)
    return lvlm.dialect.patches(frames, Trace(), lambda _layer, _layers, patches: patches)


def test_attention_and_keys_are_those_of_the_last_layer_in_one_head(lvlm: LVLM) -> None:
    with torch.inference_mode():
        patches = features(lvlm)
        attention, key, hidden = look(patches, 3, "it")
        layer = lvlm.dialect.vision_tower.vision_model.encoder.layers[3]
        x = layer.layer_norm1(patches.hidden_FND)
        q, k = layer.self_attn.q_proj(x), layer.self_attn.k_proj(x)
        by_hand = (q[:, :1] @ k.mT * 32**-0.5).softmax(-1)[:, 0, 1:]
    torch.testing.assert_close(attention, by_hand)
    torch.testing.assert_close(key, k[:, 1:])
    assert torch.equal(hidden, patches.hidden_FND[:, 1:])


def test_the_best_patch_comes_first_and_the_sum_of_the_others_last(lvlm: LVLM) -> None:
    technique = LlavaPruMerge(adaptive=False, ratio=0.1, neighbours=1)
    run = lvlm.begin(random_request(lvlm.config, frames=2), [technique])
    with torch.inference_mode():
        patches = features(lvlm)
        merged = technique.begin(run).encoder_output(EncoderOutput(patches)).hidden_FND
        attention, key, hidden = look(patches, 3, "it")
    assert merged.shape == (2, 7, 32)
    for frame in range(2):
        best = attention[frame].topk(6).indices
        cosine = torch.nn.functional.normalize(key[frame], dim=-1)
        cosine = (cosine @ cosine.mT).fill_diagonal_(-2)
        near = cosine[best].argmax(-1)
        weighted = attention[frame][:, None] * hidden[frame]
        torch.testing.assert_close(merged[frame, :6], hidden[frame][best] + weighted[near], atol=1e-5, rtol=1e-5)
        rest = [place for place in range(64) if place not in best.tolist()]
        torch.testing.assert_close(merged[frame, 6], weighted[rest].sum(0), atol=1e-5, rtol=1e-5)


def test_without_outliers_the_sum_of_all_patches_is_left(device: str) -> None:
    empty = kept_places(torch.full((1, 4), 0.2, device=device), 0.0)[0]
    merged = merge(HIDDEN.to(device), ATTENTION.to(device), KEY.to(device), empty)
    torch.testing.assert_close(merged.cpu(), (ATTENTION[:, None] * HIDDEN).sum(0, keepdim=True))


def test_one_row_of_one_head_is_read_a_frame_and_the_last_layer_does_not_run(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=3), [LlavaPruMerge(adaptive=False)]).trace
    assert trace.probe_entries == 3 * 65
    assert len(trace.encoder_tokens) == 4
    assert trace.vision_tokens == 3 * 9


def test_merged_patches_and_wrong_values_are_refused(lvlm: LVLM) -> None:
    with pytest.raises(Refusal, match="needs `whole-grid`, which nobody finds behind ToMe"):
        lvlm.run(random_request(lvlm.config, frames=1), [ToMe(r=4), LlavaPruMerge()])
    for ratio in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="ratio"):
            LlavaPruMerge(ratio=ratio)
    with pytest.raises(ValueError, match="neighbours"):
        LlavaPruMerge(neighbours=0)
