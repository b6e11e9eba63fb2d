"""FrameFusion."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV
from lvlm_atlas.reference.techniques.prefilling.framefusion import (
    FrameFusion,
    absorb,
    likeness,
    repeats,
    required_ratio,
)


def video(frames: int, tokens: int, width: int = 8, *, seed: int = 0, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Hidden states frame by frame, and their slots."""
    x_VD = torch.randn(frames * tokens, width, generator=torch.Generator().manual_seed(seed)).to(device)
    return x_VD, torch.arange(frames * tokens, device=device) % tokens


def brute(x_VD: Tensor, slot_V: Tensor, gone_V: Tensor) -> Tensor:
    """What stays, slot by slot, each with the mean of the run behind it; in the order of the prompt."""
    merged = {}
    for slot in slot_V.unique().tolist():
        head = -1
        for place in (slot_V == slot).nonzero()[:, 0].tolist():
            if gone_V[place]:
                merged[head].append(x_VD[place])
            else:
                head, merged[place] = place, [x_VD[place]]
    return torch.stack([torch.stack(merged[place]).mean(0) for place in sorted(merged)])


def test_the_required_ratio_of_the_first_layer_is_what_the_cost_leaves_out() -> None:
    assert required_ratio([], 0.3, 28) == pytest.approx(0.7)
    assert required_ratio([], 1.0, 4) == 0
    assert required_ratio([0.0], 0.5, 4) == pytest.approx(1 - 1 / 3)  # 2 layers, one is spent, 3 share the other
    assert required_ratio([0.2, 0.5], 0.5, 4) == pytest.approx(
        0, abs=1e-9
    )  # 0.8 of two layers and 0.4 go at this rate: 1.2 + 2 · 0.4
    assert required_ratio([0.9], 0.5, 4) == 0  # more has gone than was required


@pytest.mark.parametrize("ratios", [[0.0], [0.2], [0.3, 0.1], [0.2, 0.0, 0.3]])
def test_the_required_ratio_brings_the_mean_over_layers_to_the_budget(ratios: list[float]) -> None:
    cost, layers = 0.6, 8
    alive, each = 1.0, []
    for ratio in [*ratios, required_ratio(ratios, cost, layers)]:
        alive *= 1 - ratio
        each.append(alive)
    each += [alive] * (layers - len(each))
    assert sum(each) / layers == pytest.approx(cost)


def test_a_budget_that_is_spent_is_refused() -> None:
    with pytest.raises(Refusal, match=r"spent 1.5 layers of vision tokens, and a cost of 0.3 allows 1.2 of 4"):
        required_ratio([0.25, 0.0], 0.3, 4)


def test_tokens_are_compared_within_their_slot_alone(device: str) -> None:
    x, slot = video(3, 2, device=device)
    cosine_V = likeness(x, slot)
    assert cosine_V[:2].tolist() == [-2, -2]
    torch.testing.assert_close(cosine_V[2:], functional.cosine_similarity(x[2:], x[:-2], dim=-1))
    assert likeness(x, torch.arange(6, device=device)).tolist() == [-2] * 6
    assert likeness(x[:1], slot[:1]).tolist() == [-2]


def test_the_token_before_may_be_several_frames_older(device: str) -> None:
    x, slot = video(4, 3, device=device)
    left = torch.tensor([0, 1, 2, 4, 8, 9], device=device)  # slots 0 1 2 1 2 0
    cosine_V = likeness(x[left], slot[left])
    expected = functional.cosine_similarity(x[[4, 8, 9]], x[[1, 2, 0]], dim=-1)
    torch.testing.assert_close(cosine_V[3:], expected)
    assert cosine_V[:3].tolist() == [-2] * 3


def test_each_token_is_compared_with_its_neighbour_and_not_with_the_run(device: str) -> None:
    angle = torch.tensor([0.0, 0.5, 1.0, 1.5], device=device)  # each turned by as much, the last far from the first
    x, slot = torch.stack([angle.cos(), angle.sin()], dim=1), torch.zeros(4, dtype=torch.long, device=device)
    gone, met = repeats(likeness(x, slot), slot, 0.85, 0.9)  # cos 0.5 = 0.88
    assert gone.tolist() == [False, True, True, True]
    assert not met


def test_no_more_repeats_go_than_the_budget_requires(device: str) -> None:
    cosine = torch.tensor([-2.0, -2.0, 0.9, 0.7, 0.8, 0.95], device=device)
    slot = torch.tensor([0, 1, 0, 1, 0, 1], device=device)
    gone, met = repeats(cosine, slot, 0.6, 0.5)
    assert (gone.tolist(), met) == ([False, False, True, False, True, True], True)  # ⌊0.5 · 6⌋ = 3, the most alike
    gone, met = repeats(cosine, slot, 0.6, 0.4)
    assert (gone.tolist(), met) == ([False, False, True, False, False, True], True)  # ⌊2.4⌋
    gone, met = repeats(cosine, slot, 0.75, 0.6)
    assert (gone.tolist(), met) == ([False, False, True, False, True, True], False)  # 3 of 6 are fewer than required
    gone, met = repeats(cosine, slot, 0.99, 0.0)
    assert (int(gone.sum()), met) == (0, True)


def test_of_equal_cosines_the_lower_slot_goes_first_and_then_the_earlier_frame(device: str) -> None:
    cosine, slot = torch.tensor([-2.0, -2.0, 1, 1, 1, 1], device=device), torch.tensor([0, 1] * 3, device=device)
    assert repeats(cosine, slot, 0.5, 0.5)[0].tolist() == [False, False, True, True, True, False]


def test_a_run_becomes_the_plain_mean_in_its_earliest_token(device: str) -> None:
    x = torch.tensor([[0.0], [10.0], [3.0], [20.0], [6.0], [30.0], [1.0], [40.0]], device=device)
    slot = torch.tensor([0, 1] * 4, device=device)
    gone = torch.tensor([0, 0, 1, 0, 1, 1, 0, 1], dtype=torch.bool, device=device)
    out = absorb(x, slot, gone)
    assert out[~gone].flatten().tolist() == [3, 10, 30, 1]  # (0 + 3 + 6) / 3; 10; (20 + 30 + 40) / 3; 1


@pytest.mark.parametrize("seed", range(4))
def test_merging_agrees_with_brute_force(device: str, seed: int) -> None:
    x, slot = video(7, 5, seed=seed, device=device)
    gone, _ = repeats(likeness(x, slot), slot, -0.1, 0.55)
    torch.testing.assert_close(absorb(x, slot, gone)[~gone], brute(x, slot, gone))


def test_a_still_video_becomes_its_frame(device: str) -> None:
    frame = torch.eye(5, device=device)
    x, slot = frame.repeat(4, 1), torch.arange(20, device=device) % 5
    gone, met = repeats(likeness(x, slot), slot, 0.9, 0.95)
    assert not met
    assert torch.equal(absorb(x, slot, gone)[~gone], frame)


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def test_a_video_without_repeats_is_pruned_once_behind_the_first_layer(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=3)
    trace = lvlm.run(request, [FrameFusion(cost=0.5, similarity=1.0)]).trace
    assert trace.llm_vision_tokens == [192, 64, 64, 64]  # 2 layers of 4 are the budget, one is spent
    assert trace.probe_entries == 4 * (192 + 16)
    with torch.inference_mode():
        run = lvlm.begin(request)
        prefill = lvlm.prepare(run)
        layer = next(lvlm.language_model.layers)
        query, key, _ = layer.project(prefill.hidden_BND, prefill.position_BN)
        weight = (query[:, :, -1:] @ key.repeat_interleave(2, dim=1).mT / query.shape[-1] ** 0.5).softmax(-1)
        best = 4 + weight.mean(1)[0, 0, 4:196].topk(64).indices
    vision = [place for place in trace.kept[1][0].tolist() if 4 <= place < 196]
    assert vision == sorted(best.tolist())


def test_enough_repeats_meet_the_budget_without_pruning(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=4), [FrameFusion(cost=0.5, similarity=-1.0)]).trace
    assert trace.llm_vision_tokens == [128] * 4
    assert trace.probe_entries == 0


def test_merging_goes_on_while_much_is_merged(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=4)
    request.frames_F3HW[1] = request.frames_F3HW[0]  # one of four frames repeats
    setting = FrameFusion(cost=0.6, similarity=0.99, least_merged=0.3)
    assert lvlm.run(request, [setting]).trace.llm_vision_tokens[0] == 192
    spent = lvlm.run(request, [setting]).trace.llm_vision_tokens
    assert sum(spent) == pytest.approx(0.6 * 4 * 256, abs=2)
    still = request.frames_F3HW[:1].expand(4, -1, -1, -1).clone()
    request.frames_F3HW.copy_(still)
    assert lvlm.run(request, [FrameFusion(cost=0.3)]).trace.llm_vision_tokens == [77] * 4  # 256 − ⌊0.7 · 256⌋


def test_text_and_position_ids_stay(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=3)
    trace = lvlm.run(request, [FrameFusion(cost=0.5, similarity=0.0)]).trace
    for kept in trace.kept:
        places = kept[0].tolist()
        assert places == sorted(set(places))
        assert {*range(4), *range(196, 208)} <= set(places)
    with torch.inference_mode():
        run = lvlm.begin(request, [FrameFusion(cost=0.5)])
        assert lvlm.prefill(lvlm.prepare(run), run).cache.next_position.tolist() == [[208]] * 4


def test_a_budget_of_all_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    kept = lvlm.run(request, [FrameFusion(cost=1.0, similarity=-1.0)])
    torch.testing.assert_close(kept.logits_NC, lvlm.run(request).logits_NC, atol=1e-5, rtol=1e-5)


def test_deepstack_features_are_averaged_with_their_tokens(device: str) -> None:
    lvlm = LVLM.random("tiny-deepstack", device=device)
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config, frames=4))
        before = lvlm.prepare(run)
        acting = FrameFusion(cost=0.5, similarity=-1.0).begin(run)
        after = acting.llm_input(LlmInput(before))
    assert before.deepstack_BNLD is not None
    assert after.deepstack_BNLD is not None
    vision = before.vision_places()[0]
    slot = acting._slots(before)
    gone, _ = repeats(likeness(before.hidden_BND[0, vision], slot), slot, -1.0, 0.5)
    for x, y in ((before.hidden_BND, after.hidden_BND), (before.deepstack_BNLD, after.deepstack_BNLD)):
        torch.testing.assert_close(y[0, after.vision_BN[0]], brute(x[0, vision], slot, gone))


def test_what_does_not_fit_is_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    with pytest.raises(Refusal, match="may drop some between its layers"):
        lvlm.run(request, [FrameFusion(), FastV()])
    with pytest.raises(Refusal, match="raise cost"):
        lvlm.run(request, [FrameFusion(cost=0.2, similarity=1.0)])
    for wrong in ({"cost": 0.0}, {"cost": 1.1}, {"similarity": 1.5}, {"least_merged": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FrameFusion(**wrong)


def test_a_question_without_frames_goes_through_behind_a_video() -> None:
    lvlm = LVLM.random("tiny")
    request = random_request(lvlm.config, frames=4, text_tokens=6, max_new_tokens=2)
    session = lvlm.stream([FrameFusion(cost=0.6)])
    session.see(request.frames_F3HW)
    asked = session.ask(request.text_N, 2)
    assert asked.trace.llm_vision_tokens[0] == 0
    assert len(asked.tokens_N) == 2
