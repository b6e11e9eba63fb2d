"""LLaVA-PruMerge+."""

from __future__ import annotations

import pytest
import torch

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.ops.outliers import outlier_ratio
from lvlm_atlas.reference.techniques.encoding import llava_prumerge_plus
from lvlm_atlas.reference.techniques.encoding.llava_prumerge import kept_places, look, merge
from lvlm_atlas.reference.techniques.encoding.llava_prumerge_plus import (
    LlavaPruMergePlus,
    grid_places,
    supplemented,
)


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def test_the_grid_has_steps_of_a_third_and_leaves_the_last_patch_out() -> None:
    assert grid_places(576, 1 / 18).tolist() == list(range(0, 575, 6))
    assert grid_places(13, 3 / 13).tolist() == list(range(12))  # step 4, a third of it 1; 12 is the last
    assert grid_places(12, 1 / 12, density=1).tolist() == [0]
    assert grid_places(12, 1 / 4, density=9).tolist() == list(range(11))


def test_no_place_comes_twice_and_additions_follow_the_best_in_order(device: str) -> None:
    kept = torch.tensor([6, 1, 4], device=device)
    assert supplemented(kept, torch.arange(0, 9, 2, device=device)).tolist() == [6, 1, 4, 0, 2, 8]


def test_frames_keep_different_numbers_and_no_padding_reaches_the_llm(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=6)
    run = lvlm.begin(request, [LlavaPruMergePlus(neighbours=4, density=1)])
    with torch.inference_mode():
        sequence = lvlm.prepare(run)
        unchanged = lvlm.dialect.patches(request.frames_F3HW, Trace(), lambda _layer, _layers, patches: patches)
        attention, key, hidden = look(unchanged, 3, "it")
        ratio = outlier_ratio(attention)
        expected = []
        for frame, kept_K in enumerate(kept_places(attention, ratio)):
            places = kept_K.tolist() + [p for p in range(0, 63, int(1 / ratio)) if p not in kept_K.tolist()]
            merged = merge(hidden[frame], attention[frame], key[frame], torch.tensor(places), 4)
            expected.append(lvlm.dialect.adapter(merged))
    lengths = [len(each) for each in expected]
    assert len(set(lengths)) > 1
    assert [len(span) for span in run.prompt.spans] == lengths
    torch.testing.assert_close(sequence.hidden_BND[sequence.vision_BN], torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_without_outliers_the_sum_of_all_patches_is_left(lvlm: LVLM) -> None:
    technique = LlavaPruMergePlus()
    run = lvlm.begin(random_request(lvlm.config, frames=1), [technique])
    with torch.inference_mode():
        frames = random_request(lvlm.config, frames=1).frames_F3HW
        patches = lvlm.dialect.patches(frames, Trace(), lambda _layer, _layers, patches: patches)
        alike = Patches(patches.hidden_FND[:, :1].expand(-1, 65, -1), prefix=1, upcoming=patches.upcoming)
        merged = technique.begin(run).encoder_output(EncoderOutput(alike)).hidden_FND
    torch.testing.assert_close(merged, alike.hidden_FND[:, :1] * 64 / 65, atol=1e-5, rtol=1e-5)


def test_values_out_of_range_are_refused() -> None:
    for name in ("neighbours", "density"):
        with pytest.raises(ValueError, match=name):
            LlavaPruMergePlus(**{name: 0})
    assert llava_prumerge_plus.LlavaPruMergePlus().density == 3
