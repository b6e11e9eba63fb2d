"""DivPrune."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.ops.diversity import select_diverse
from lvlm_atlas.reference.ops.similarity import cosine_distance
from lvlm_atlas.reference.techniques.prefilling.divprune import DivPrune, divprune


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, V, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def tokens(number: int, seed: int = 0) -> Tensor:
    return torch.randn(1, number, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_distance(distance_VV: Tensor, chosen: list[int]) -> float:
    return min(float(distance_VV[one, two]) for one, two in combinations(chosen, 2))


def test_the_first_token_is_the_one_farthest_from_its_nearest_neighbour(device: str) -> None:
    # 300° is farthest from every other direction; 0° and 10°, 100° and 130° are pairs.
    distance = cosine_distance(directions(0, 10, 100, 130, 300, device=device))
    assert select_diverse(distance, 1).tolist() == [[4]]


def test_the_nearest_chosen_token_counts_and_not_the_farthest(device: str) -> None:
    distance = torch.tensor(
        [[0.0, 9, 9, 9], [9, 0, 8, 1], [9, 8, 0, 3], [9, 1, 3, 0]], dtype=torch.float64, device=device
    )[None]
    # 0 first. 1, 2 and 3 are 9 away from it: 1 is the first of equals. Then 2 (8 from 1), not 3 (1 from 1).
    assert select_diverse(distance, 3).tolist() == [[0, 1, 2]]


def test_the_length_of_features_does_not_matter(device: str) -> None:
    x = tokens(15).to(device)
    scale = torch.linspace(0.1, 30, 15, dtype=torch.float64, device=device)[:, None]
    assert torch.equal(divprune(x, 0.4), divprune(x * scale, 0.4))


def test_duplicates_are_kept_once_while_other_tokens_are_left(device: str) -> None:
    x = directions(0, 0, 0, 90, 180, 180, 270, device=device)
    kept = divprune(x, 4 / 7)[0].tolist()
    assert [place in kept for place in (3, 6)] == [True, True]
    assert (len([p for p in kept if p < 3]), len([p for p in kept if p in (4, 5)])) == (1, 1)


def test_no_token_is_chosen_twice_when_only_duplicates_are_left(device: str) -> None:
    same = torch.ones(1, 5, 3, device=device)
    assert divprune(same, 1.0).tolist() == [[0, 1, 2, 3, 4]]
    x = directions(0, 0, 90, 90, device=device)
    assert len(set(select_diverse(cosine_distance(x), 4)[0].tolist())) == 4


def test_the_number_of_kept_tokens_rounds_halves_to_even(device: str) -> None:
    assert divprune(tokens(25).to(device), 0.5).shape == (1, 12)  # 12.5
    assert divprune(tokens(27).to(device), 0.5).shape == (1, 14)  # 13.5
    assert divprune(tokens(576).to(device), 0.098).shape == (1, 56)  # 56.4


def test_a_single_token_can_be_kept_and_none_can(device: str) -> None:
    assert divprune(tokens(1).to(device), 1.0).tolist() == [[0]]
    assert divprune(tokens(4).to(device), 0.1).shape == (1, 0)


def test_sequences_of_a_batch_choose_on_their_own(device: str) -> None:
    x = torch.cat([tokens(12, seed) for seed in range(3)]).to(device)
    together = divprune(x, 0.5)
    assert torch.equal(together, torch.cat([divprune(one[None], 0.5) for one in x]))
    assert bool((together.diff(dim=1) > 0).all())


def sequence(hidden_ND: Tensor, vision: list[bool]) -> Sequence:
    place = torch.arange(len(hidden_ND), device=hidden_ND.device)[None]
    return Sequence(hidden_ND[None], place, torch.tensor([vision], device=hidden_ND.device), place)


def test_positions_are_numbered_anew_without_gaps(device: str) -> None:
    hidden = torch.cat([torch.ones(1, 2), directions(0, 3, 10, 90, 95).float()[0], torch.ones(2, 2)]).to(device)
    out = DivPrune(ratio=0.4).llm_input(LlmInput(sequence(hidden, [False] + [True] * 5 + [False] * 2)))
    assert out.index_BN.tolist() == [[0, 3, 5, 6, 7]]
    assert out.position_BN.tolist() == [[0, 1, 2, 3, 4]]
    assert out.vision_BN.tolist() == [[False, True, True, False, False]]
    assert torch.equal(out.hidden_BND[0], hidden[[0, 3, 5, 6, 7]])


def test_the_tokens_of_all_frames_are_one_set(device: str) -> None:
    frame = directions(0, 90, 180, 270, device=device).float()[0]
    text = torch.ones(1, 2, device=device)
    # The same frame twice, text between: half of the tokens hold all there is to see.
    hidden = torch.cat([frame, text, frame])
    out = DivPrune(ratio=0.5).llm_input(LlmInput(sequence(hidden, [True] * 4 + [False] + [True] * 4)))
    kept = out.hidden_BND[0, out.vision_BN[0]].round().int().tolist()
    assert sorted(kept) == [[-1, 0], [0, -1], [0, 1], [1, 0]]


@pytest.mark.parametrize(("ratio", "kept"), [(0.098, 38), (0.25, 96), (0.5, 192)])
def test_every_layer_sees_all_text_and_the_kept_share_of_vision(ratio: float, kept: int, device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [DivPrune(ratio)]).trace
    assert trace.vision_tokens == 384  # the encoder is not relieved
    assert trace.llm_vision_tokens == [kept] * 4
    assert trace.llm_tokens == trace.kv_entries == [kept + 16] * 4
    full = lvlm.run(random_request(lvlm.config)).trace
    assert [small * 400 for small in trace.kv_byte] == [large * (kept + 16) for large in full.kv_byte]
    for index in trace.kept:
        assert bool((index.diff(dim=1) > 0).all())
        assert set(index[0].tolist()) >= {*range(4), *range(388, 400)}


def test_keeping_everything_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    assert torch.equal(lvlm.run(request, [DivPrune(ratio=1.0)]).logits_NC, lvlm.run(request).logits_NC)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01])
def test_ratios_outside_their_range_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"ratio must lie in \(0, 1\]"):
        DivPrune(ratio)
