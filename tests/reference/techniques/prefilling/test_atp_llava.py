"""ATP-LLaVA."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.ops.attention import share_heads
from lvlm_atlas.reference.techniques.prefilling.atp_llava import (
    AtpLlava,
    Thresholds,
    self_score,
    soft_mask,
    spatial_score,
    stays,
)
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV


class Fixed(nn.Module):
    """Thresholds that do not look; what they were shown is remembered."""

    def __init__(self, theta_r: float, theta_s: float) -> None:
        super().__init__()
        self.pair, self.seen = (theta_r, theta_s), []

    def forward(self, self_BV: Tensor, cross_BV: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append((self_BV, cross_BV))
        theta_r, theta_s = (torch.full((len(self_BV), 1), each, device=self_BV.device) for each in self.pair)
        return theta_r, theta_s


@pytest.fixture
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def test_either_score_is_enough_to_stay(device: str) -> None:
    redundant = torch.tensor([[0.9, 0.5, 0.1, 0.9]], device=device)
    spatial = torch.tensor([[0.0, 0.0, 0.25, 0.25]], device=device)
    half, low = torch.tensor([[0.5]], device=device), torch.tensor([[0.2]], device=device)
    assert stays(redundant, spatial, half, low).tolist() == [[True, False, True, True]]  # equal is not above
    assert stays(redundant, spatial, half, half).tolist() == [[True, False, False, True]]


def test_where_none_passes_the_one_of_highest_score_stays(device: str) -> None:
    redundant = torch.tensor([[0.1, 0.4, 0.4, 0.2], [0.1, 0.4, 0.8, 0.2]], device=device)
    theta = torch.full((2, 1), 0.7, device=device)
    assert stays(redundant, torch.zeros_like(redundant), theta, theta).tolist() == [
        [False, True, False, False], [False, False, True, False],
    ]  # fmt: skip


def test_thresholds_follow_the_input(device: str) -> None:
    thresholds = drawn(lambda: Thresholds(16), device=device)
    score = torch.randn(3, 5, device=device)
    theta_r, theta_s = thresholds(score, score.flip(1) * 2)
    assert theta_r.shape == theta_s.shape == (3, 1)
    assert len({*theta_r.flatten().tolist()}) == len({*theta_s.flatten().tolist()}) == 3
    assert bool(((theta_r > 0) & (theta_r < 1)).all())
    shuffled = thresholds(score[:, [4, 2, 0, 1, 3]], score * 2)  # by the means alone
    torch.testing.assert_close(shuffled[0], theta_r)


def test_the_sample_is_one_of_rows_and_columns(device: str) -> None:
    place = torch.tensor([[0, r, c] for r in range(4) for c in range(3)], device=device)[None]
    quarter = spatial_score(place, 0.25, 3.0)[0].reshape(4, 3)
    assert quarter.tolist() == [[0.25, 0, 0.25], [0, 0, 0], [0.25, 0, 0.25], [0, 0, 0]]
    left = place[:, [1, 2, 6, 11]]  # what an earlier module left keeps its row and column
    assert spatial_score(left, 0.25, 3.0).tolist() == [[0, 0.25, 0.25, 0]]
    assert spatial_score(place, 0.25, 4.0).abs().max() == 0
    assert spatial_score(place, 0.25, 9.0).abs().max() == 0  # never below 0
    assert spatial_score(place, 1.0, 0.5).unique().tolist() == [0.5]
    sixteenth = spatial_score(place, 0.0625, 0.0)[0].reshape(4, 3)
    assert sixteenth.nonzero().tolist() == [[0, 0]]


def test_a_self_score_is_the_mean_logit_from_all_vision_tokens(device: str) -> None:
    query, key = torch.randn(2, 3, 7, 4, device=device), torch.randn(2, 3, 7, 4, device=device)
    logit_BHVV = query @ key.mT / 2
    torch.testing.assert_close(self_score(query, key), logit_BHVV.mean(dim=(1, 2)))


def test_the_soft_mask_becomes_the_hard_one_as_the_temperature_rises(device: str) -> None:
    redundant, spatial = torch.rand(1, 50, device=device), torch.rand(1, 50, device=device)
    theta_r, theta_s = torch.tensor([[0.6]], device=device), torch.tensor([[0.7]], device=device)
    hard = stays(redundant, spatial, theta_r, theta_s)
    assert torch.equal(soft_mask(redundant, spatial, theta_r, theta_s, 1e6) > 0.5, hard)
    soft = soft_mask(redundant, spatial, theta_r, theta_s, 1.0)
    assert bool(((soft > 0.3) & (soft < 0.7)).all())


@pytest.mark.parametrize("preset", ["tiny", "tiny-window"])
def test_a_module_keeps_what_its_scores_by_hand_say(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=1)
    with torch.inference_mode():
        inputs = lvlm.prepare(lvlm.begin(request))
        layer = next(lvlm.language_model.layers)
        query, key, _ = layer.project(inputs.hidden_BND, inputs.position_BN)
        logit_HNN = query[0] @ share_heads(key, query.shape[1])[0].mT / query.shape[-1] ** 0.5
    vision = inputs.vision_BN[0].nonzero()[:, 0]
    last = int(vision[-1])
    self_V = logit_HNN[:, vision][:, :, vision].mean(dim=(0, 1))
    visible = torch.ones_like(logit_HNN[0], dtype=torch.bool).tril()
    weight_HNN = logit_HNN.masked_fill(~visible, float("-inf")).softmax(-1)
    cross_V = weight_HNN[:, last + 1 :, vision].mean(dim=(0, 1))
    score_V = (self_V + cross_V) / 2
    theta = float(score_V.sort().values[-5:-3].mean())
    fixed = Fixed(theta, 2.0)
    give(lvlm, (Thresholds, 1), fixed)
    trace = lvlm.run(request, [AtpLlava((1,))]).trace
    ((seen_self, seen_cross),) = fixed.seen
    torch.testing.assert_close(seen_self[0], self_V, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen_cross[0], cross_V, atol=1e-5, rtol=1e-5)
    best = [*vision[score_V > theta].tolist()]
    text = (~inputs.vision_BN[0]).nonzero()[:, 0].tolist()
    assert len(best) == 4
    assert trace.kept[1][0].tolist() == sorted([*best, *text])
    assert trace.kv_index[1][0, 0].tolist() == sorted([*best, *text])


def test_each_module_has_thresholds_of_its_own(lvlm: LVLM) -> None:
    give(lvlm, (Thresholds, 1), Fixed(2.0, 0.6))
    give(lvlm, (Thresholds, 3), Fixed(2.0, 2.0))
    trace = lvlm.run(random_request(lvlm.config, frames=2), [AtpLlava((1, 3), 0.25, 1.0)]).trace
    assert trace.llm_vision_tokens == [128, 32, 32, 1]
    assert trace.kv_entries == [144, 48, 48, 17]


def test_rows_of_the_text_behind_the_image_are_read_alone(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1, text_tokens=16, max_new_tokens=1)
    inputs = lvlm.prepare(lvlm.begin(request))
    behind = inputs.length - 1 - int(inputs.vision_BN[0].nonzero()[-1])
    assert 0 < behind < 16
    trace = lvlm.run(request, [AtpLlava((1,))]).trace
    assert trace.probe_entries == 4 * sum(range(80 - behind + 1, 81))


def test_keeping_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    give(lvlm, (Thresholds, 2), Fixed(2.0, 0.5))
    plain, kept = lvlm.run(request), lvlm.run(request, [AtpLlava((2,), 1.0, 0.0)])
    torch.testing.assert_close(kept.logits_NC, plain.logits_NC, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_is_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    with pytest.raises(Refusal, match=r"1\.\.3 for an LLM of 4 layers"):
        lvlm.run(request, [AtpLlava()])
    with pytest.raises(Refusal, match="FastV may drop some between its layers"):
        lvlm.run(request, [AtpLlava((1,)), FastV()])
    for wrong, said in (
        ({"layers": (2, 1)}, "layers"), ({"layers": (0,)}, "layers"), ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"sample_weight": -1.0}, "sample_weight"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            AtpLlava(**wrong)  # type: ignore[arg-type]
