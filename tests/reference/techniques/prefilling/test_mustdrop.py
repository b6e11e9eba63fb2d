"""MustDrop."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.merging import merge_wavg
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.vispruner import VisPruner
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV
from lvlm_atlas.reference.techniques.prefilling.mustdrop import (
    Dropping,
    MustDrop,
    dual_filter,
    key_set,
    merge_windows,
    window_likeness,
)


@dataclass(frozen=True)
class Look(Technique):
    """Notes what the class token pays to the patches in the layer that is left out."""

    attention: list[Tensor] = field(default_factory=list)

    acts_at: ClassVar = ("encoder-output",)

    def encoder_output(self, at: EncoderOutput) -> Patches:
        self.attention.append(at.patches.ahead().rows(slice(0, 1))[:, :, 0, 1:])
        return at.patches


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def drop_all(*layers: int, key_rate: float = 0.08) -> MustDrop:
    """Nothing merges, and nothing but the key set is safe."""
    return MustDrop(window=2, similarity=2.0, key_rate=key_rate, share=1.1, peak=1.1, layers=layers)


def grid(rows: list[list[float]], device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles, row after row."""
    angle = torch.tensor(rows, dtype=torch.float64, device=device).flatten().deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def test_a_windows_likeness_is_the_mean_over_its_pairs_without_each_with_itself(device: str) -> None:
    x = grid([[0, 0, 0, 90], [0, 0, 0, 90], [10, 10, 0, 60], [10, 10, 120, 180]], device)
    # 0, 0, 90, 90: two of six pairs are alike. 0, 60, 120, 180: cosines 0.5, −0.5, −1, 0.5, −0.5, 0.5.
    expected = torch.tensor([[1, 1 / 3, 1, -0.5 / 6]], device=device)
    assert torch.allclose(window_likeness(x, 2), expected, atol=1e-6)
    assert torch.allclose(window_likeness(x * 7, 2), expected, atol=1e-6)


@settings(max_examples=30)
@given(st.data())
def test_likeness_is_that_of_plain_loops(data: st.DataObject) -> None:
    window, across = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 3))
    side = window * across
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    x = torch.randn(2, side * side, 3, generator=generator)
    result = window_likeness(x, window)
    for frame in range(2):
        for number in range(across * across):
            top, left = number // across * window, number % across * window
            places = [(top + i) * side + left + j for i in range(window) for j in range(window)]
            unit = torch.nn.functional.normalize(x[frame, places], dim=-1)
            cosine = unit @ unit.T
            mean = (cosine.sum() - cosine.trace()) / (len(places) * (len(places) - 1))
            assert float(result[frame, number]) == pytest.approx(float(mean), abs=1e-5)


def test_merged_windows_come_first_by_likeness_and_the_rest_in_its_order(device: str) -> None:
    likeness = torch.tensor([[0.8, 0.1, 0.7, 0.9]], device=device)
    x = torch.arange(16, dtype=torch.float32, device=device)[None, :, None]
    matching = merge_windows(likeness, 0.8, 2, prefix=0)
    # Windows 3 (places 10, 11, 14, 15) and 0 (0, 1, 4, 5): at the threshold a window merges too.
    assert merge_wavg(matching, x)[0].flatten().tolist() == [12.5, 2.5, 2, 3, 6, 7, 8, 9, 12, 13]
    with_class = torch.cat([torch.full((1, 1, 1), -9.0, device=device), x], dim=1)
    out, size = merge_wavg(merge_windows(likeness, 0.8, 2, prefix=1), with_class)
    assert out.flatten()[:4].tolist() == [-9, 12.5, 2.5, 2]
    assert size.flatten()[:4].tolist() == [1, 4, 4, 1]


def test_as_many_merge_in_each_frame_as_in_that_of_fewest(device: str) -> None:
    likeness = torch.tensor([[0.9, 0.8, 0.95, 0.0], [0.1, 0.2, 0.85, 0.3]], device=device)
    matching = merge_windows(likeness, 0.5, 2, prefix=0)
    assert matching.count == 13
    x = torch.arange(16, dtype=torch.float32, device=device).expand(2, 16)[..., None]
    assert merge_wavg(matching, x)[0][:, 0, 0].tolist() == [10.5, 10.5]
    assert merge_windows(likeness, 0.9, 2, prefix=1).count == 17  # none in the second frame


def test_the_key_set_are_the_class_tokens_favourites_rounded_up(device: str) -> None:
    attention = torch.tensor(
        [[[0.6, 0.0, 0.3, 0.1], [0.0, 0.5, 0.3, 0.2]]], device=device
    )  # means 0.3, 0.25, 0.3, 0.15
    assert key_set(attention, 0.5).tolist() == [[0, 2]]
    assert key_set(attention, 0.51).tolist() == [[0, 1, 2]]
    assert key_set(attention, 0.01).tolist() == [[0]]
    assert key_set(attention, 0.0).shape == (1, 0)


def test_a_token_goes_only_if_it_is_low_in_all_and_with_every_word(device: str) -> None:
    # Two words, four tokens. Sums 0.5, 0.06, 0.05, 0.03 of 0.64.
    row = torch.tensor([[[0.3, 0.03, 0.05, 0.01], [0.2, 0.03, 0.0, 0.02]]], device=device)
    assert dual_filter(row, 0.085, 0.04).tolist() == [[True, True, True, False]]  # 0.054: the second by its sum alone
    assert dual_filter(row, 0.1, 0.04).tolist() == [[True, False, True, False]]  # the third by one word
    assert dual_filter(row, 0.1, 0.051).tolist() == [[True, False, False, False]]
    assert dual_filter(row, 1.1, 1.0).tolist() == [[False] * 4]
    assert dual_filter(row, 0.0, 1.0).tolist() == dual_filter(row, 1.1, 0.0).tolist() == [[True] * 4]


def test_the_key_set_is_that_of_the_layer_that_is_left_out_and_survives(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    trace = lvlm.run(request, [drop_all(0, 2, key_rate=0.1)]).trace
    assert trace.llm_vision_tokens == [128, 14, 14, 14]  # ⌈6.4⌉ of each frame
    look = Look()
    with torch.inference_mode():
        full = lvlm.prepare(lvlm.begin(request, [look]))
    best = look.attention[0].mean(1).topk(7, dim=1).indices.sort(dim=1).values + torch.tensor(
        [[0], [64]], device=lvlm.device
    )
    vision = full.vision_BN[0].nonzero()[:, 0]
    kept = trace.kept[1][0]
    assert torch.equal(kept[torch.isin(kept, vision)], vision[best.flatten()])


def test_caches_from_the_first_stage_to_the_last_hold_what_is_left_in_the_end(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    shown = lvlm.run(request, [MustDrop(window=2, similarity=2.0, share=0.05, peak=0.02, layers=(0, 1))]).trace
    counts = shown.llm_vision_tokens
    assert counts[0] == 64 > counts[1] > counts[2] == counts[3] > 6  # each stage drops some, and text holds on to some
    assert shown.kv_entries == [16 + counts[3]] * 4
    for index_BGS in shown.kv_index:
        assert torch.equal(index_BGS[0, 0], shown.kept[3][0])


def test_layers_before_the_first_stage_keep_their_entries(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=1), [drop_all(1, 2)]).trace
    assert trace.kv_entries == [80, 22, 22, 22]
    assert trace.llm_vision_tokens == [64, 64, 6, 6]


def test_kept_tokens_are_numbered_anew(lvlm: LVLM) -> None:
    inputs = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1)))
    acting = Dropping(drop_all(1), key_index=inputs.index_BN[0, inputs.vision_places()[0, 10:16]])
    query = torch.randn(1, 4, inputs.length, 8, generator=torch.Generator().manual_seed(0)).to(lvlm.device)
    sequence = replace(inputs, attention=Probe(query, query, causal=True))
    assert acting.llm_layer(LlmLayer(1, 4, sequence)).length == 80  # it prunes behind layer 1, not before
    out = acting.llm_layer(LlmLayer(2, 4, sequence))
    assert out.position_BN.tolist() == [[*range(22)]]
    assert out.next_position.tolist() == [22]
    assert out.index_BN.tolist() == [[0, 1, 2, 3, *range(14, 20), *range(68, 80)]]


def test_merging_shortens_encoder_and_llm_alike(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [MustDrop(window=4, similarity=-1.0, key_rate=0.0, layers=())]).trace
    assert trace.encoder_tokens == [65, 5, 5, 5]
    assert trace.vision_tokens == 6 * 4
    assert trace.llm_vision_tokens == [24] * 4
    assert trace.probe_entries == 0


def test_with_nothing_to_merge_and_nothing_to_drop_nothing_changes(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    full = lvlm.run(request)
    for neutral in (
        MustDrop(window=2, similarity=2.0, layers=()),
        MustDrop(window=2, similarity=2.0, peak=0.0, layers=(0, 2)),
        MustDrop(window=2, similarity=2.0, key_rate=1.0, share=1.1, peak=1.1, layers=(0, 2)),
    ):
        assert torch.equal(lvlm.run(request, [neutral]).logits_NC, full.logits_NC)


def test_what_it_cannot_count_on_is_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    for stack, says in (
        ([MustDrop(window=3, layers=(1,))], "windows of 3"),
        ([drop_all(3)], r"lie in 0\.\.2"),
        ([drop_all(1), FastV(layer=1)], "needs `equal-frames`"),
        ([VisPruner(tokens=20), drop_all(1)], "cls-token"),
    ):
        with pytest.raises(Refusal, match=says):
            lvlm.run(request, stack)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"window": 1}, "window must"),
        ({"key_rate": 1.1}, "key_rate must"),
        ({"share": -0.1}, "share must"),
        ({"peak": -0.1}, "peak must"),
        ({"layers": (2, 1)}, "layers must rise"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MustDrop(**wrong)  # type: ignore[arg-type]
