"""G-Prune."""

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.techniques.prefilling.divprune import DivPrune
from lvlm_atlas.reference.techniques.prefilling.g_prune import GPrune, g_prune, gathered, transitions


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (V, 2) at these angles."""
    angle = torch.tensor(degrees, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def tokens(number: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(number, 8, generator=torch.Generator().manual_seed(seed)).to(device)


def test_tokens_below_the_similarity_are_no_neighbours(device: str) -> None:
    share = transitions(directions(0, 30, 100, device=device), 0.5, 1.0)
    # 0° and 30° are alike (0.87); 100° is near neither (−0.17, 0.34): not even a little mass goes there.
    assert (share > 0).tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    weight = torch.tensor([1.0, 3**0.5 / 2]).softmax(0)
    torch.testing.assert_close(share[0].cpu(), torch.tensor([*weight.tolist(), 0.0]), atol=1e-5, rtol=1e-5)


def test_mass_is_neither_lost_nor_made(device: str) -> None:
    x = tokens(30, device=device)
    share = transitions(x, 0.1, 0.05)
    torch.testing.assert_close(share.sum(dim=1), torch.ones(30, device=device))
    degree = (share > 0).sum(dim=1)
    for steps in (1, 4):
        mass = gathered(x.norm(dim=1), share, steps) * degree
        torch.testing.assert_close(mass.sum(), x.norm(dim=1).sum())


def test_mass_flows_along_the_rows_to_the_columns(device: str) -> None:
    share = torch.tensor([[0.5, 0.5], [0.0, 1.0]], device=device)
    # All of the first token's mass ends with the second: 1/2 after a step, 1/4 after two.
    assert (gathered(torch.tensor([8.0, 0.0], device=device), share, 1)).tolist() == [2.0, 4.0]  # degrees 2 and 1
    assert (gathered(torch.tensor([8.0, 0.0], device=device), share, 2)).tolist() == [1.0, 6.0]


def test_steps_equal_a_power_of_the_matrix(device: str) -> None:
    x = tokens(25, device=device)
    share = transitions(x, 0.2, 0.3)
    expected = x.norm(dim=1) @ torch.matrix_power(share, 5) / (share > 0).sum(dim=1)
    torch.testing.assert_close(gathered(x.norm(dim=1), share, 5), expected)


def test_a_crowd_is_discounted_by_its_size(device: str) -> None:
    x = torch.cat([directions(0, 0, 0, 0, device=device), 0.9 * directions(90, device=device)])
    # Each of the four has mass 1 and four neighbours, the fifth has 0.9 of its own.
    assert g_prune(x, 0.2, 0.5, 0.03, 5).tolist() == [4]
    assert g_prune(x, 0.4, 0.5, 0.03, 5).tolist() == [0, 4]


def test_tokens_without_neighbours_are_ranked_by_their_length(device: str) -> None:
    x = torch.diag(torch.tensor([3.0, 1.0, 5.0, 2.0], device=device))
    assert g_prune(x, 0.5, 0.5, 0.03, 5).tolist() == [0, 2]


@pytest.mark.parametrize(("number", "ratio", "kept"), [(7, 0.5, 3), (9, 0.99, 8), (5, 1.0, 5), (3, 0.3, 0)])
def test_the_number_is_rounded_down(device: str, number: int, ratio: float, kept: int) -> None:
    assert g_prune(tokens(number, device=device), ratio, 0.5, 0.03, 2).shape == (kept,)


def test_a_zero_vector_is_no_accident(device: str) -> None:
    x = torch.cat([torch.zeros(1, 8, device=device), tokens(5, device=device)])
    assert 0 not in g_prune(x, 0.5, 0.5, 0.03, 5).tolist()
    assert g_prune(torch.zeros(4, 8, device=device), 0.5, 0.5, 0.03, 5).tolist() == [0, 1]


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def test_each_image_is_a_graph_of_its_own(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=3, max_new_tokens=1)
    trace = lvlm.run(request, [GPrune(keep_ratio=0.39)]).trace
    with torch.inference_mode():
        inputs = lvlm.prepare(lvlm.begin(request))
        vision = inputs.hidden_BND[0, inputs.vision_BN[0]].reshape(3, 64, -1)
        places = inputs.vision_BN[0].nonzero()[:, 0].reshape(3, 64)
        expected = torch.cat([places[f][g_prune(vision[f], 0.39, 0.5, 0.03, 5)] for f in range(3)])
    assert trace.kept[0][0].tolist() == [*range(4), *expected.tolist(), *range(196, 208)]
    assert trace.llm_vision_tokens == [3 * 24] * 4


def test_position_ids_keep_their_gaps(lvlm: LVLM) -> None:
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config, frames=2), [GPrune(keep_ratio=0.25)])
        prefill = lvlm.prefill(lvlm.prepare(run), run)
    kept = run.trace.kept[0][0].tolist()
    assert prefill.outputs.position_BN[0].tolist() == kept
    assert prefill.cache.next_position.tolist() == [[144]] * 4


def test_behind_another_choice_an_image_is_what_that_left_of_it(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=1)
    first = lvlm.run(request, [DivPrune(0.3)]).trace.kept[0][0]
    alive = [int(((first >= 4 + 64 * f) & (first < 68 + 64 * f)).sum()) for f in range(2)]
    trace = lvlm.run(request, [DivPrune(0.3), GPrune(keep_ratio=0.5)]).trace
    assert alive[0] != alive[1]
    assert trace.llm_vision_tokens == [alive[0] // 2 + alive[1] // 2] * 4


def test_images_of_different_sizes_are_pruned_one_by_one(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    small, large = (torch.randn(3, side, 48, generator=torch.Generator().manual_seed(side)) for side in (24, 40))
    image = lvlm.config.image_token_id
    prompt = torch.tensor([1, image, 2, image, 3, 4])
    request = Request(frames_F3HW=(small, large), prompt_N=prompt, image_token_id=image, max_new_tokens=1)
    full = lvlm.prepare(run := lvlm.begin(request))
    assert run.prompt is not None
    lengths = run.prompt.span_lengths
    assert lengths[0] != lengths[1]
    assert sum(lengths) == int(full.vision_BN.sum())
    trace = lvlm.run(request, [GPrune(keep_ratio=0.45)]).trace
    assert trace.llm_vision_tokens[0] == sum(int(0.45 * length) for length in lengths)


def test_keeping_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    assert torch.equal(lvlm.run(request, [GPrune(keep_ratio=1.0)]).logits_NC, lvlm.run(request).logits_NC)


def test_arguments_out_of_range_are_refused() -> None:
    for wrong in (
        {"keep_ratio": 0.0}, {"keep_ratio": 1.1}, {"similarity": 1.0}, {"similarity": -0.1}, {"temperature": 0.0},
        {"iterations": 0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GPrune(**wrong)
