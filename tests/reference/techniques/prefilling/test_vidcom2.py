"""VidCom²."""

import math

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens, blocks_of, grid_places
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.vidcom2 import VidCom2, budgets, likeness, quiet_channels, vidcom2


def video(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def test_the_channels_that_vary_least_are_looked_at_in_their_order(device: str) -> None:
    x = torch.zeros(1, 4, 5, device=device)
    x[0, :, 0] = torch.tensor([9.0, -9, 9, -9])
    x[0, :, 2] = torch.tensor([1.0, -1, 1, -1])
    x[0, :, 3] = torch.tensor([100.0, 100.0, 100.0, 100.5])  # large, but steady
    x[0, :, 4] = torch.tensor([3.0, -3, 3, -3])
    assert quiet_channels(x, 0.5).tolist() == x[:, :, [1, 3]].tolist()  # two of five, rounded down
    assert quiet_channels(x, 0.6).tolist() == x[:, :, [1, 2, 3]].tolist()


def test_variance_is_that_of_all_frames_together(device: str) -> None:
    x = torch.zeros(2, 2, 2, device=device)
    x[0, :, 0], x[1, :, 0] = 5, -5  # steady within each frame
    x[:, 0, 1], x[:, 1, 1] = 1, -1
    assert quiet_channels(x, 0.5).tolist() == x[:, :, [1]].tolist()


def test_likeness_sums_five_gaussians(device: str) -> None:
    x = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]], device=device)
    expected = [sum(math.exp(-square / (2 * width)) for width in (0.125, 0.25, 0.5, 1, 2)) for square in (0, 1, 2)]
    assert likeness(x, torch.zeros(2, device=device))[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_frame_that_stands_out_gets_more_and_the_others_share_the_rest(device: str) -> None:
    even = budgets(torch.zeros(4, device=device), 0.25, 0.01, 100)
    assert even.tolist() == [25] * 4
    # p is one-hot: 0.25 · (1 + 1 − 1/4) and 0.25 · (1 − 1/4).
    assert budgets(torch.tensor([0.0, 5, 0, 0], device=device), 0.25, 0.01, 100).tolist() == [19, 44, 19, 19]
    assert budgets(torch.tensor([0.0, 5, 0, 0], device=device), 0.25, 1e9, 100).tolist() == [25] * 4


def test_a_share_is_cut_off_at_all_tokens_and_a_frame_keeps_one_at_least(device: str) -> None:
    assert budgets(torch.tensor([0.0, 9], device=device), 0.9, 0.01, 40).tolist() == [18, 40]  # 0.45, and 1.35 → 1
    assert budgets(torch.tensor([0.0, 9], device=device), 0.01, 0.01, 40).tolist() == [1, 1]
    assert budgets(torch.tensor([1.0, 9, 3], device=device), 1.0, 0.01, 9).tolist() == [6, 9, 6]  # 1 keeps not all


def test_halves_round_to_even(device: str) -> None:
    assert budgets(torch.zeros(1, device=device), 0.5, 0.01, 5).tolist() == [2]
    assert budgets(torch.zeros(1, device=device), 0.5, 0.01, 7).tolist() == [4]


def by_hand(x_TND: Tensor, base: float, temperature: float) -> list[list[int]]:
    """Kept places of each frame, with loops, in float64."""
    frames, tokens, width = x_TND.shape
    flat = x_TND.reshape(-1, width).double()
    order = sorted(range(width), key=lambda c: float(((flat[:, c] - flat[:, c].mean()) ** 2).mean()))
    x = torch.nn.functional.normalize(x_TND.double()[:, :, sorted(order[: width // 2])], dim=-1)

    def near(token: Tensor, centre: Tensor) -> float:
        return sum(math.exp(-float(((token - centre) ** 2).sum()) / (2 * 2.0**k)) for k in range(-3, 2))

    centre = x.reshape(frames * tokens, -1).mean(0)
    of_video = [[near(token, centre) for token in frame] for frame in x]
    of_frame = [[near(token, frame.mean(0)) for token in frame] for frame in x]
    score = [-sum(each) / tokens for each in of_video]
    weight = [math.exp((each - max(score)) / temperature) for each in score]
    kept = []
    for t in range(frames):
        share = min(1.0, base * (1 + weight[t] / sum(weight) - 1 / frames))
        order = sorted(range(tokens), key=lambda n: of_video[t][n] + of_frame[t][n])
        kept.append(sorted(order[: max(1, round(share * tokens))]))
    return kept


@pytest.mark.parametrize(("base", "temperature"), [(0.25, 0.01), (0.6, 0.05), (1.0, 0.3), (0.02, 0.01)])
def test_equals_the_definition(device: str, base: float, temperature: float) -> None:
    for seed in range(3):
        x = video(4, 11, 14, seed=seed, device=device)
        kept = vidcom2(x, base, temperature)
        assert [row.nonzero()[:, 0].tolist() for row in kept] == by_hand(x.cpu(), base, temperature)


def test_tokens_far_from_both_centres_stay(device: str) -> None:
    x = torch.ones(3, 6, 8, device=device)
    x[1, 4], x[2, 2] = -1, -1
    kept = vidcom2(x, base=0.3, temperature=1e6, channels=1.0)
    assert bool(kept[1, 4])
    assert bool(kept[2, 2])
    assert kept.sum(dim=1).tolist() == [2, 2, 2]
    assert kept[0].nonzero()[:, 0].tolist() == [0, 1]  # all alike: the earlier ones


def test_the_length_of_features_does_not_matter_for_choice_but_the_output_is_the_features(device: str) -> None:
    x = video(3, 8, 6, device=device)
    tokens = VisionTokens(blocks_of(x, grid_places(2, 4).expand(3, -1, -1)), grid=(2, 4))
    out = VidCom2(base=0.5).adapter_output(AdapterOutput(tokens))
    kept = vidcom2(x, 0.5)
    for t, block in enumerate(out.blocks):
        assert torch.equal(block.token_ND, x[t][kept[t]])  # whole tokens, not halved or normalised ones
        assert block.place_N2.tolist() == grid_places(2, 4)[kept[t].cpu()].tolist()


def test_the_whole_video_decides_and_not_each_frame_alone(device: str) -> None:
    x = 1 + 0.1 * video(4, 16, 8, device=device)
    x[2] = -x[2]  # stands out
    together = vidcom2(x).sum(dim=1).tolist()
    assert together[2] > max(together[:2] + together[3:])
    assert [int(vidcom2(frame[None]).sum()) for frame in x] == [4] * 4


def test_frames_of_different_lengths_are_refused(device: str) -> None:
    tokens = VisionTokens((Block(video(4, 6, device=device)), Block(video(3, 6, device=device))))
    with pytest.raises(Refusal, match=r"equally many tokens, got \[4, 3\]"):
        VidCom2().adapter_output(AdapterOutput(tokens))
    with pytest.raises(Refusal, match="one of the 6 at least"):
        VidCom2(channels=0.1).adapter_output(AdapterOutput(VisionTokens((Block(video(4, 6, device=device)),))))


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_frames_keep_what_they_stand_out_for_on_every_dialect(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=2)
    full, trace = lvlm.run(request).trace, lvlm.run(request, [VidCom2(base=0.3)]).trace
    blocks = full.llm_vision_tokens[0]
    assert abs(trace.llm_vision_tokens[0] - 0.3 * blocks) <= 2  # four frames at most, half a token each
    assert len({*trace.llm_vision_tokens}) == 1


def test_with_even_budgets_and_a_share_of_one_nothing_changes(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=3)
    kept = lvlm.run(request, [VidCom2(base=1.0, temperature=1e9)])
    assert torch.equal(kept.logits_NC, lvlm.run(request).logits_NC)
    assert lvlm.run(request, [VidCom2(base=1.0)]).trace.llm_vision_tokens[0] < 192


def test_arguments_out_of_range_are_refused() -> None:
    for wrong in ({"base": 0.0}, {"base": 1.1}, {"channels": 0.0}, {"channels": 2.0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            VidCom2(**wrong)
