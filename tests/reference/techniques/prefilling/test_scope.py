"""SCOPE."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.ops.diversity import greedy_cover
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.tome import ToMe
from lvlm_atlas.reference.techniques.encoding.vispruner import VisPruner
from lvlm_atlas.reference.techniques.prefilling.scope import Scope, scope


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def saliency(*values: float, device: str = "cpu") -> Tensor:
    """What a class token of one head pays, (1, 1, N)."""
    return torch.tensor(values, dtype=torch.float64, device=device)[None, None]


def test_the_first_covers_most_and_the_second_what_it_left_open(device: str) -> None:
    # Cosines: 0 with (0, 30, 60, 180) is 1, 0.87, 0.5, −1; 30: 0.87, 1, 0.87; 60: 0.5, 0.87, 1. The token at 30° gives
    # 2.73, those beside it 2.37, the opposite one its own 1. Behind 30° the one at 180° still gains 1, the others 0.13.
    x = directions(0, 30, 60, 180, device=device)
    assert scope(x, saliency(1, 1, 1, 1, device=device), 4)[0, :2].tolist() == [1, 3]


def test_opposite_tokens_count_nothing_and_never_against_one(device: str) -> None:
    # Were −1 counted, the token at 0° would sum to less than 0 and the one at 90°, with 1.77, would come first.
    x = directions(0, 50, 180, 180, 90, device=device)
    assert scope(x, saliency(9, 0.1, 0.1, 0.1, 5, device=device), 1).tolist() == [[0]]


def test_tokens_that_are_chosen_already_still_have_to_be_covered(device: str) -> None:
    kernel = torch.tensor([[[0.4, 0.9, 0.0], [0.9, 0.4, 0.3], [0.0, 0.3, 0.6]]], device=device)
    weight = torch.tensor([[9.0, 1.0, 1.0]], device=device)
    # After token 0 the cover is 0.4, 0.9, 0. Token 1 adds 0.5 to the chosen token's own cover, and 0.3: 0.8 in all;
    # token 2 adds 0.6. Without what it adds to the chosen one, token 1 would come last.
    assert greedy_cover(kernel, weight, 3).tolist() == [[0, 1, 2]]


def test_saliency_multiplies_the_gain_or_is_added_to_it(device: str) -> None:
    # Gains at first: 1 for each of three tokens at right angles to each other, 2 for each of a pair of equals.
    x = torch.eye(4, dtype=torch.float64, device=device)[None, [0, 1, 2, 3, 3]]
    weight = saliency(1.5, 0.1, 1.9, 0.3, 0.2, device=device)
    assert scope(x, weight, 3)[0].tolist() == [2, 0, 3]  # 1.9, 1.5, then 0.6
    assert scope(x, weight, 3, combine="add")[0].tolist() == [2, 0, 3]  # 2.9, 2.5, 2.3
    weight = saliency(1.2, 0.1, 1.3, 0.3, 0.2, device=device)
    assert scope(x, weight, 2)[0].tolist() == [2, 0]  # 1.3, 1.2 against 0.6
    assert scope(x, weight, 2, combine="add")[0].tolist() == [2, 3]  # 2.3, then 2.3 before 2.2
    assert scope(x, weight, 5, combine="add")[0].tolist() == [2, 3, 0, 1, 4]


def test_the_power_of_the_saliency_weighs_it(device: str) -> None:
    x = torch.eye(3, dtype=torch.float64, device=device)[None, [0, 1, 2, 2]]
    weight = saliency(0.3, 0.1, 0.2, 0.1, device=device)  # times the gains: 0.3, 0.1, 0.4, 0.2
    assert scope(x, weight, 1).tolist() == [[2]]
    assert scope(x, weight, 1, alpha=3.0).tolist() == [[0]]  # 0.027 against 0.016
    assert scope(x, saliency(0.3, 0.2, 0.01, 0.0, device=device), 1, alpha=0.0).tolist() == [[2]]  # coverage alone


def test_saliency_is_summed_over_heads(device: str) -> None:
    x = torch.eye(3, device=device)[None]
    attention = torch.tensor([[[0.6, 0.0, 0.35], [0.0, 0.5, 0.3]]], device=device)
    assert scope(x, attention, 1).tolist() == [[2]]
    # The mean would choose the same when multiplied, and another when added: 2 gains of 1, sums 0.65 against 0.6.
    x = torch.eye(3, device=device)[None, [0, 1, 2, 2]] * 3
    attention = torch.tensor([[[0.9, 0.0, 0.1, 0.0], [0.8, 0.0, 0.0, 0.0]]], device=device)
    assert scope(x, attention, 1, combine="add").tolist() == [[0]]  # 1 + 1.7 against 2 + 0.1


def test_a_duplicate_of_a_chosen_token_gains_nothing_more(device: str) -> None:
    x = torch.tensor([[[4.0, 0, 0], [0, 1, 0], [2, 0, 0], [0, 0, 1]]], device=device)
    assert scope(x, saliency(5, 1, 4, 1, device=device).float(), 4).tolist() == [[0, 1, 3, 2]]


def test_at_the_end_equals_follow_by_place_and_once_each(device: str) -> None:
    x = torch.ones(1, 6, 3, device=device)
    assert scope(x, torch.ones(1, 2, 6, device=device), 6).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert scope(torch.zeros(1, 3, 2, device=device), torch.ones(1, 1, 3, device=device), 3).tolist() == [[0, 1, 2]]


@settings(max_examples=60)
@given(st.data())
def test_the_choice_is_that_of_plain_loops(data: st.DataObject) -> None:
    patches = data.draw(st.integers(1, 14))
    tokens = data.draw(st.integers(1, 16))
    alpha = data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    combine = data.draw(st.sampled_from(["multiply", "add"]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    x = torch.randn(2, patches, 5, generator=generator, dtype=torch.float64)
    attention = torch.rand(2, 3, patches, generator=generator, dtype=torch.float64)
    result = scope(x, attention, tokens, alpha, combine)
    for frame in range(2):
        alike = [[float(torch.cosine_similarity(a, b, dim=0)) for b in x[frame]] for a in x[frame]]
        weight = [float(attention[frame, :, place].sum()) ** alpha for place in range(patches)]
        chosen: list[int] = []
        assert len(set(result[frame].tolist())) == result.shape[1] == min(tokens, patches)
        for pick in result[frame].tolist():
            cover = [max([0.0, *(alike[i][j] for j in chosen)]) for i in range(patches)]
            value = {}
            for j in set(range(patches)) - {*chosen}:
                gain = sum(max(0.0, alike[i][j] - cover[i]) for i in range(patches))
                value[j] = gain + weight[j] if combine == "add" else gain * weight[j]
            assert value[pick] == pytest.approx(max(value.values()), abs=1e-9)  # two may tie but for rounding
            chosen.append(pick)


def test_gains_never_grow(device: str) -> None:
    x = torch.randn(1, 20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    unit = x / x.norm(dim=-1, keepdim=True)
    alike = (unit @ unit.mT)[0]
    order = greedy_cover(alike[None], torch.ones(1, 20, dtype=torch.float64, device=device), 20)[0]
    cover = torch.stack([alike[:, order[: k + 1]].amax(1).clamp(min=0).sum() for k in range(20)])
    gain = cover.diff(prepend=cover.new_zeros(1))
    assert bool((gain.diff() <= 1e-12).all())
    assert float(gain[0]) == pytest.approx(float(alike.clamp(min=0).sum(0).max()))


def test_the_layers_class_attention_and_features_decide_and_kept_patches_are_untouched(device: str) -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, query, key = (
        torch.randn(2, *shape, generator=generator).to(device) for shape in ((17, 8), (4, 17, 5), (4, 17, 5))
    )
    patches = Patches(hidden, 1, Probe(query, key, causal=False), key)
    out = Scope(tokens=6).encoder_output(EncoderOutput(patches))
    weight = (query @ key.mT * 5**-0.5).softmax(-1)[:, :, 0, 1:]
    kept = scope(hidden[:, 1:], weight, 6).sort(dim=1).values
    assert out.prefix == 0  # the class token is gone, and nothing else is cut off on the way to the adapter
    for frame in range(2):
        assert torch.equal(out.hidden_FND[frame], hidden[frame, 1 + kept[frame]])


def test_every_frame_keeps_its_tokens_in_the_order_of_the_image(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config), [Scope(tokens=20)])
    sequence = lvlm.prepare(run)
    assert run.trace.encoder_tokens == [65] * 4  # it saves nothing in the encoder
    assert run.trace.probe_entries == 4 * 6 * 65  # one row of four heads in six frames
    place_V3 = sequence.on_grid()[sequence.vision_BN].cpu()
    reading = (place_V3[:, 0] * 64 + place_V3[:, 1] * 8 + place_V3[:, 2]).tolist()
    assert reading == sorted(set(reading))
    assert len(reading) == 6 * 20


@pytest.mark.parametrize("tokens", [64, 576])
def test_with_as_many_tokens_as_patches_nothing_changes(device: str, tokens: int) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, [Scope(tokens=tokens)])
    assert torch.equal(neutral.logits_NC, lvlm.run(request).logits_NC)
    assert neutral.trace.probe_entries == 0


def test_it_takes_the_tokens_that_merging_left(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [ToMe(r=8), Scope(tokens=20)]).trace
    assert trace.encoder_tokens == [65, 57, 49, 41]
    assert trace.vision_tokens == 6 * 20


def test_beside_another_that_uses_up_the_class_token_the_later_one_refuses(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(Refusal, match="needs `cls-token`, which nobody finds behind"):
        lvlm.run(random_request(lvlm.config), [Scope(tokens=20), VisPruner(tokens=10)])


def test_patches_without_attention_are_refused() -> None:
    with pytest.raises(Refusal, match="without"):
        Scope(tokens=2).encoder_output(EncoderOutput(Patches(torch.ones(1, 9, 3), prefix=1)))


def test_more_than_there_are_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match=r"keep must be in 0\.\.3 \(the tokens\), got 4"):
        greedy_cover(torch.ones(1, 3, 3), torch.ones(1, 3), 4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"tokens": 0}, "tokens must be"), ({"alpha": -0.1}, "alpha must be"), ({"combine": "max"}, "combine must be")],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Scope(**wrong)  # type: ignore[arg-type]
