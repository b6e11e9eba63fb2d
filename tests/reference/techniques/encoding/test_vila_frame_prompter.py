"""ViLA's Frame-Prompter."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens, blocks_of
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, EncoderOutput
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.techniques.encoding.vila_frame_prompter import (
    FrameGate,
    Prompting,
    ViLAFramePrompter,
    gumbel_noise,
    hard_sample,
    in_stretches,
)


def prompting(lvlm: LVLM, seed: int = 0, **setting: int) -> Prompting:
    """The technique as it acts in a run."""
    request = replace(random_request(lvlm.config), seed=seed)
    return ViLAFramePrompter(**setting).begin(lvlm.begin(request, []))  # type: ignore[arg-type]


def kept(acting: Prompting, hidden_FND: Tensor) -> list[int]:
    """The frames whose tokens are left, of frames with these patches."""
    acting.encoder_output(EncoderOutput(Patches(hidden_FND, prefix=0)))
    left = acting.adapter_output(AdapterOutput(VisionTokens(blocks_of(hidden_FND))))
    return [frame for frame, length in enumerate(left.lengths) if length]


def test_frames_go_to_their_stretches_in_order(device: str) -> None:
    mean_FN = torch.arange(14.0, device=device).reshape(7, 2)
    mean_SLN, real_SL = in_stretches(mean_FN, 3)
    assert mean_SLN.shape == (3, 3, 2)
    assert real_SL.tolist() == [[True, True, False], [True, True, False], [True, True, True]]
    assert torch.equal(mean_SLN[real_SL], mean_FN)
    assert not mean_SLN[~real_SL].any()


def test_the_gate_by_hand(device: str) -> None:
    gate = FrameGate(2, 1).to(device)
    with torch.no_grad():
        gate.pool.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        gate.pool.bias.zero_()
        gate.score.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        gate.score.bias.copy_(torch.tensor([0.5, 0.0]))
    # (3, 1) normalised is (1, −1), cut at 0 is (1, 0); (1, 3) is (−1, 1), cut (0, 1).
    logit_SL = gate(torch.tensor([[[3.0], [1.0]], [[1.0], [3.0]]], device=device))
    torch.testing.assert_close(logit_SL.cpu(), torch.tensor([[2.5, 0.0], [0.5, 3.0]]), atol=1e-4, rtol=0)


def test_the_gate_reads_all_frames_of_a_stretch_together(device: str) -> None:
    gate = drawn(lambda: FrameGate(4, 3), device=device)
    mean_SLN = torch.randn(1, 4, 3, device=device)
    changed = mean_SLN.clone()
    changed[0, 3, 1] += 5
    assert (gate(mean_SLN) != gate(changed)).sum() > 1  # scores of other frames move too
    assert torch.equal(gate(torch.cat([mean_SLN, mean_SLN]))[0], gate(torch.cat([mean_SLN, mean_SLN]))[1])


def test_every_stretch_gives_exactly_one_frame(device: str) -> None:
    logit_SL = torch.tensor([[9.0, 8.0, 7.0], [0.1, 0.3, 0.2]], device=device)
    one_SL = hard_sample(logit_SL, torch.zeros_like(logit_SL))
    torch.testing.assert_close(one_SL.cpu(), torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    noisy_SL = hard_sample(logit_SL, torch.tensor([[0.0, 0, 3], [0, 0, 0.4]], device=device))
    torch.testing.assert_close(noisy_SL.cpu(), torch.tensor([[0.0, 0, 1], [0, 0, 1]]))


def test_the_forward_is_hard_and_the_gradient_soft() -> None:
    logit_SL = torch.tensor([[1.0, 2.0, 0.0]], requires_grad=True)
    zero_SL = torch.zeros(1, 3)
    for temperature in (0.01, 0.5, 10.0):
        assert hard_sample(logit_SL, zero_SL, temperature).argmax() == 1
        torch.testing.assert_close(hard_sample(logit_SL, zero_SL, temperature).detach(), torch.tensor([[0.0, 1, 0]]))
    weight_SL = torch.tensor([[3.0, -1.0, 2.0]])
    (hard_sample(logit_SL, zero_SL) * weight_SL).sum().backward()
    soft = (logit_SL.detach() / 0.5).softmax(-1)
    torch.testing.assert_close(logit_SL.grad, soft * (weight_SL - (soft * weight_SL).sum()) / 0.5)


def test_what_fills_up_a_stretch_is_never_picked(device: str) -> None:
    logit_SL = torch.tensor([[-5.0, -math.inf]], device=device)
    for seed in range(20):
        noise_SL = gumbel_noise(1, 2, seed).to(device)
        assert hard_sample(logit_SL, noise_SL).argmax() == 0
    lvlm = LVLM.random(device=device)
    for seed in range(20):
        picked = prompting(lvlm, seed, segments=4).pick(torch.randn(7, 5, device=device))
        assert all(a <= b < c for a, b, c in zip([0, 1, 3, 5], picked, [1, 3, 5, 7], strict=True))


def test_noise_has_the_law_of_gumbel() -> None:
    noise = gumbel_noise(100, 1000, 0)
    assert abs(float(noise.mean()) - 0.5772) < 0.02
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.05
    # A logit that is ln 3 above another wins three times of four.
    wins = hard_sample(torch.tensor([[math.log(3), 0.0]]).expand(50_000, 2), noise.reshape(50_000, 2))[:, 0].mean()
    assert abs(float(wins) - 0.75) < 0.01


def test_noise_is_that_of_the_request(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=9)
    one, again = (lvlm.run(request, [ViLAFramePrompter(2)]) for _ in range(2))
    assert torch.equal(one.logits_NC, again.logits_NC)
    mean_FN = torch.randn(12, 5, device=device)
    noisy = {tuple(prompting(lvlm, seed, segments=2).pick(mean_FN)) for seed in range(12)}
    quiet = {tuple(prompting(lvlm, seed, segments=2, noise=False).pick(mean_FN)) for seed in range(12)}
    assert len(noisy) > 3
    assert len(quiet) == 1


def test_the_means_over_channels_decide(device: str) -> None:
    lvlm = LVLM.random(device=device)
    gate = FrameGate(3, 2).to(device)
    with torch.no_grad():  # scores a frame by the sum of its tokens' means
        gate.pool.weight.copy_(torch.eye(3).repeat_interleave(2, dim=1))
        gate.score.weight.copy_(torch.eye(3))
        for each in (gate.pool.bias, gate.score.bias):
            each.zero_()
    give(lvlm, (ViLAFramePrompter, 3, 2), gate)
    hidden_FND = torch.zeros(6, 2, 4, device=device)
    hidden_FND[1, 0] = torch.tensor([9.0, -9.0, 9.0, -9.0])  # large, but of mean 0
    hidden_FND[2, 1] = 0.5
    hidden_FND[3, 1] = 0.1
    assert kept(prompting(lvlm, segments=2, noise=False), hidden_FND) == [2, 3]


def test_the_tokens_of_the_picked_frames_stay_at_their_places(device: str) -> None:
    acting = prompting(LVLM.random(device=device), segments=2)
    patches = Patches(torch.randn(6, 5, 8, device=device), prefix=0)
    assert acting.encoder_output(EncoderOutput(patches)) is patches
    tokens = VisionTokens(blocks_of(torch.randn(6, 4, 8, device=device)))
    left = acting.adapter_output(AdapterOutput(tokens))
    picked = acting.pick(patches.hidden_FND.mean(-1))
    assert [frame for frame, length in enumerate(left.lengths) if length] == picked
    for frame in picked:
        assert torch.equal(left.blocks[frame].token_ND, tokens.blocks[frame].token_ND)


@pytest.mark.parametrize("frames", [1, 3, 4])
def test_no_more_frames_than_stretches_all_stay(device: str, frames: int) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=frames)
    bare, run = lvlm.run(request), lvlm.run(request, [ViLAFramePrompter(4)])
    assert torch.equal(bare.logits_NC, run.logits_NC)


@pytest.mark.parametrize(
    ("preset", "encoded"), [("tiny", 6), ("tiny-window", 3), ("tiny-deepstack", 3), ("tiny-tiles", 6)]
)
def test_the_llm_reads_a_frame_a_stretch(device: str, preset: str, encoded: int) -> None:
    # Two frames of a video share a temporal patch where patches are temporal.
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=6)
    bare, run = lvlm.run(request), lvlm.run(request, [ViLAFramePrompter(2)])
    assert 2 * bare.trace.llm_vision_tokens[0] == encoded * run.trace.llm_vision_tokens[0]
    assert run.trace.encoder_tokens == bare.trace.encoder_tokens


def test_a_tiled_image_is_judged_by_the_mean_of_its_views(device: str) -> None:
    lvlm = LVLM.random(device=device)
    view_FND = torch.randn(8, 5, 8, device=device)
    acting = prompting(lvlm, segments=2, noise=False)
    acting.encoder_output(EncoderOutput(Patches(view_FND, prefix=0)))
    blocks = blocks_of(torch.randn(4, 9, 8, device=device))
    left = acting.adapter_output(AdapterOutput(VisionTokens(blocks)))
    picked = acting.pick(torch.stack([view_FND[2 * image : 2 * image + 2].mean((0, 2)) for image in range(4)]))
    assert [image for image, length in enumerate(left.lengths) if length] == picked
    with pytest.raises(Refusal, match="images of one size, these have 9, 9, 9, 3"):
        acting.adapter_output(AdapterOutput(VisionTokens((*blocks[:3], blocks[3].keep(torch.arange(3))))))


def test_parameters_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="segments must be at least 1, got 0"):
        ViLAFramePrompter(segments=0)
