"""VisPruner."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.tome import ToMe
from lvlm_atlas.reference.techniques.encoding.visionzip import VisionZip
from lvlm_atlas.reference.techniques.encoding.vispruner import VisPruner, remove_duplicates, vispruner


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def falling(tokens: int, device: str = "cpu") -> Tensor:
    """Attention (1, 1, N) that falls from patch to patch, so that the order of attention is that of the image."""
    return torch.arange(tokens, 0, -1, dtype=torch.float64, device=device)[None, None] / tokens**2


def test_of_two_that_resemble_each_other_the_one_at_the_even_place_goes(device: str) -> None:
    # Pairs (even, odd) by angle: 0 is 40° from its nearest odd one, 2 is 5°, 4 is 25°.
    x = directions(0, 40, 95, 90, 160, 135, device=device)
    assert remove_duplicates(x, 5, step=1).tolist() == [[4, 0, 1, 3, 5]]
    assert remove_duplicates(x, 4, step=2).tolist() == [[0, 1, 3, 5]]


def test_the_even_ones_that_stay_come_by_falling_similarity_in_the_next_round(device: str) -> None:
    x = directions(0, 40, 95, 90, 160, 135, device=device)
    # One round at a time: after the first, tokens stand as 4, 0, 1, 3, 5, so that 4, 1 and 5 are compared with 0 and 3.
    # 4 and 5 lie 70° and 45° from the nearest of them, 1 lies 40° off.
    assert remove_duplicates(x, 4, step=1)[0].tolist() == [5, 4, 0, 3]
    # Had the order of the image been restored (0, 1, 3, 4, 5), token 5 would have gone, at 25° from 4.


def test_similarity_is_the_nearest_partner_and_not_the_mean(device: str) -> None:
    # Token 0 is 5° from one odd token and 175° from the other; token 2 is 60° and 70° from them.
    x = directions(0, 5, 65, -175, device=device)
    assert remove_duplicates(x, 3, step=1).tolist() == [[2, 1, 3]]


def test_features_are_compared_by_angle(device: str) -> None:
    x = directions(0, 60, 90, 100, device=device) * torch.tensor([9.0, 9, 1, 1], device=device)[:, None]
    assert remove_duplicates(x, 3, step=1).tolist() == [[0, 1, 3]]


def test_the_last_round_drops_no_more_than_is_left_to_drop(device: str) -> None:
    x = torch.randn(2, 40, 5, generator=torch.Generator().manual_seed(0)).to(device)
    assert remove_duplicates(x, 29).shape == (2, 29)  # 8, then 3


@pytest.mark.parametrize(("tokens", "keep"), [(1, 1), (3, 1), (5, 2), (7, 1), (15, 1), (17, 16), (16, 0), (9, 9)])
def test_odd_numbers_and_few_tokens_leave_exactly_as_many_as_asked(tokens: int, keep: int, device: str) -> None:
    x = torch.randn(3, tokens, 4, generator=torch.Generator().manual_seed(tokens)).to(device)
    kept = remove_duplicates(x, keep)
    assert kept.shape == (3, keep)
    assert all(len(set(row)) == keep for row in kept.tolist())


def test_a_duplicate_goes_before_anything_else(device: str) -> None:
    x = torch.randn(1, 12, 6, generator=torch.Generator().manual_seed(3)).to(device)
    x[0, 4] = 2.5 * x[0, 7]
    assert sorted(remove_duplicates(x, 11, step=1)[0].tolist()) == [place for place in range(12) if place != 4]


def test_attention_decides_the_important_ones_and_the_others_are_split_in_its_order(device: str) -> None:
    # By attention: 3, 0, 5, 1, 4, 2. Important: 3, 0. Residual 5, 1, 4, 2: even 5 and 4, odd 1 and 2.
    attention = torch.tensor([[[0.2, 0.1, 0.01, 0.3, 0.05, 0.15]]], device=device)
    x = directions(0, 90, 0, 0, 85, 40, device=device)  # 4 is 5° from 1, 5 is 40° from 2
    assert vispruner(attention, x, 5, 0.4).tolist() == [[0, 1, 2, 3, 5]]
    # In the order of the image (1, 2, 4, 5) tokens 1 and 4 would both be even, and 1 would go.


def test_attention_is_averaged_over_heads(device: str) -> None:
    attention = torch.tensor([[[0.6, 0.0, 0.35], [0.0, 0.5, 0.3]]], device=device)
    assert vispruner(attention, directions(0, 10, 20, device=device), 1, 1.0).tolist() == [[2]]


def test_the_share_of_the_important_ones_is_rounded_down(device: str) -> None:
    x = directions(0, 1, 90, 91, 180, 180, device=device)
    # ⌊3 · 0.5⌋ = 1 by attention, 0. Of 1, 2, 3, 4, 5 first 5 and 3 go, at 0° and 1° from 4 and 2; then 1, 89° from 2.
    assert vispruner(falling(6, device), x, 3, 0.5).tolist() == [[0, 2, 4]]
    assert vispruner(falling(6, device), x, 3, 0.67)[0, :2].tolist() == [0, 1]


@settings(max_examples=60)
@given(st.data())
def test_the_choice_is_that_of_plain_loops(data: st.DataObject) -> None:
    patches = data.draw(st.integers(1, 40))
    tokens = data.draw(st.integers(1, 45))
    ratio = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    step = data.draw(st.sampled_from([1, 3, 8]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    x, attention = (
        torch.rand(2, *shape, generator=generator, dtype=torch.float64) - offset
        for shape, offset in (((patches, 3), 0.5), ((2, patches), 0.0))
    )
    result = vispruner(attention, x, tokens, ratio, step)
    for frame in range(2):
        score = attention[frame].sum(0).tolist()
        order = sorted(range(patches), key=lambda place: -score[place])
        budget = min(tokens, patches)
        important, residual = order[: int(budget * ratio)], order[int(budget * ratio) :]
        diverse = budget - len(important)
        while diverse and len(residual) > diverse:
            even, odd = residual[::2], residual[1::2]
            nearest = {
                place: max(float(torch.cosine_similarity(x[frame, place], x[frame, mate], dim=0)) for mate in odd)
                for place in even
            }
            drop = min(step, len(residual) - diverse, len(residual) // 2)
            residual = sorted(even, key=lambda place: -nearest[place])[drop:] + odd
        assert result[frame].tolist() == sorted(important + (residual if diverse else []))


def test_with_a_share_of_one_the_class_tokens_attention_decides_alone(device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    attention, x = torch.rand(3, 4, 25, generator=generator).to(device), torch.randn(3, 25, 6).to(device)
    best = attention.mean(1).topk(9).indices.sort(dim=1).values
    assert torch.equal(vispruner(attention, x, 9, important_ratio=1.0), best)


def test_equal_patches_are_kept_by_place(device: str) -> None:
    attention, x = torch.ones(1, 2, 6, device=device), torch.ones(1, 6, 3, device=device)
    # Important 0, 1, of the residual 2, 3, 4, 5 the first of the even ones goes first.
    assert vispruner(attention, x, 5, 0.4).tolist() == [[0, 1, 3, 4, 5]]


def test_the_layers_class_attention_and_features_decide_and_kept_patches_are_untouched(device: str) -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, query, key = (
        torch.randn(2, *shape, generator=generator).to(device) for shape in ((17, 8), (4, 17, 5), (4, 17, 5))
    )
    patches = Patches(hidden, 1, Probe(query, key, causal=False), key)
    out = VisPruner(tokens=6, step=2).encoder_output(EncoderOutput(patches))
    weight = (query @ key.mT * 5**-0.5).softmax(-1)[:, :, 0, 1:]
    kept = vispruner(weight, hidden[:, 1:], 6, 0.5, 2)
    assert out.prefix == 0  # the class token is gone, and nothing else is cut off on the way to the adapter
    for frame in range(2):
        assert torch.equal(out.hidden_FND[frame], hidden[frame, 1 + kept[frame]])


def test_every_frame_keeps_its_tokens_and_its_places_in_the_grid(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config), [VisPruner(tokens=20)])
    sequence = lvlm.prepare(run)
    assert run.trace.encoder_tokens == [65] * 4  # it saves nothing in the encoder
    assert run.trace.vision_tokens == 6 * 20
    place_V3 = sequence.on_grid()[sequence.vision_BN].cpu()
    reading = (place_V3[:, 0] * 64 + place_V3[:, 1] * 8 + place_V3[:, 2]).tolist()
    assert reading == sorted(set(reading))
    assert len(reading) == 6 * 20


def test_only_the_class_tokens_row_of_attention_is_formed(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [VisPruner(tokens=20)]).trace
    heads, frames, tokens = 4, 6, 65
    assert trace.probe_entries == heads * frames * tokens


@pytest.mark.parametrize("tokens", [64, 576])
def test_with_as_many_tokens_as_patches_nothing_changes(device: str, tokens: int) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, [VisPruner(tokens=tokens)])
    assert torch.equal(neutral.logits_NC, lvlm.run(request).logits_NC)
    assert neutral.trace.probe_entries == 0


def test_it_takes_the_tokens_that_merging_left(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [ToMe(r=8), VisPruner(tokens=20)]).trace
    assert trace.encoder_tokens == [65, 57, 49, 41]
    assert trace.vision_tokens == 6 * 20


def test_beside_another_that_uses_up_the_class_token_the_later_one_refuses(device: str) -> None:
    lvlm = LVLM.random(device=device)
    stack = [VisionZip(dominant=20, contextual=5), VisPruner(tokens=10)]
    for each in (stack, stack[::-1]):
        with pytest.raises(Refusal, match="needs `cls-token`, which nobody finds behind"):
            lvlm.run(random_request(lvlm.config), each)


def test_patches_without_attention_are_refused() -> None:
    with pytest.raises(Refusal, match="without"):
        VisPruner(tokens=2).encoder_output(EncoderOutput(Patches(torch.ones(1, 9, 3), prefix=1)))


def test_more_than_there_are_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match=r"keep must be in 0\.\.3 \(the tokens\), got 4"):
        remove_duplicates(torch.ones(1, 3, 2), 4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"tokens": 0}, "tokens must be at least 1"), ({"step": 0}, "step must be"), ({"important_ratio": 1.5}, "lie in")],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VisPruner(**wrong)  # type: ignore[arg-type]
