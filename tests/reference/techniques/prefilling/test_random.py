"""Random pruning."""

import pytest
import torch

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.techniques.prefilling.random import RandomPruning, random_places


def test_the_kept_tokens_ascend() -> None:
    for seed in range(20):
        places = random_places(2, 30, 0.4, seed)
        assert bool((places.diff(dim=1) > 0).all())
        assert bool((places >= 0).all() & (places < 30).all())


def test_the_draw_depends_on_the_seed_and_on_nothing_else(device: str) -> None:
    torch.manual_seed(1)
    first = random_places(1, 50, 0.3, seed=4)
    torch.manual_seed(2)
    torch.rand(17, device=device)
    assert torch.equal(first, random_places(1, 50, 0.3, seed=4))
    assert not torch.equal(first, random_places(1, 50, 0.3, seed=5))


def test_a_draw_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    random_places(3, 40, 0.5, seed=0)
    assert torch.equal(torch.rand(4), expected)


def test_rows_of_a_batch_draw_on_their_own() -> None:
    one, two = random_places(2, 60, 0.5, seed=0)
    assert not torch.equal(one, two)
    assert torch.equal(one, random_places(1, 60, 0.5, seed=0)[0])


@pytest.mark.parametrize(("tokens", "ratio", "kept"), [(576, 0.25, 144), (25, 0.5, 12), (27, 0.5, 14), (4, 0.1, 0)])
def test_exactly_the_rounded_share_is_kept(tokens: int, ratio: float, kept: int) -> None:
    for seed in range(5):
        assert random_places(1, tokens, ratio, seed).shape == (1, kept)


def test_every_place_is_kept_equally_often() -> None:
    tokens, draws = 12, 4000
    counts = torch.bincount(torch.cat([random_places(1, tokens, 0.25, s)[0] for s in range(draws)]), minlength=tokens)
    # A quarter of 4000 is 1000 with a standard deviation of 27; five of them.
    assert (counts - draws / 4).abs().max() < 5 * 27.4


def test_the_prompt_keeps_all_text_and_is_numbered_anew(device: str) -> None:
    vision = torch.tensor([[False, True, True, True, True, False]], device=device)
    place = torch.arange(6, device=device)[None]
    hidden = torch.arange(6.0, device=device)[None, :, None].expand(1, 6, 3)
    out = RandomPruning(keep_ratio=0.5, seed=1).llm_input(LlmInput(Sequence(hidden, place, vision, place)))
    kept = [1 + rank for rank in random_places(1, 4, 0.5, 1)[0].tolist()]
    assert out.index_BN.tolist() == [[0, *kept, 5]]
    assert out.position_BN.tolist() == [[0, 1, 2, 3]]
    assert out.hidden_BND[0, :, 0].tolist() == [0.0, *map(float, kept), 5.0]


@pytest.mark.parametrize(("ratio", "kept"), [(0.1, 38), (0.25, 96), (0.5, 192)])
def test_every_layer_sees_all_text_and_the_kept_share_of_vision(ratio: float, kept: int, device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [RandomPruning(ratio)]).trace
    assert trace.vision_tokens == 384  # the encoder is not relieved
    assert trace.llm_vision_tokens == [kept] * 4
    assert trace.llm_tokens == trace.kv_entries == [kept + 16] * 4


def test_keeping_everything_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    assert torch.equal(lvlm.run(request, [RandomPruning(1.0)]).logits_NC, lvlm.run(request).logits_NC)


def test_it_runs_where_positions_have_three_axes(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    request = random_request(lvlm.config, frames=2)
    before, after = (lvlm.run(request, stack).trace for stack in ([], [RandomPruning(0.5)]))
    assert after.llm_vision_tokens == [round(0.5 * count) for count in before.llm_vision_tokens]


@pytest.mark.parametrize("setting", [{"keep_ratio": 0.0}, {"keep_ratio": 1.01}, {"seed": -1}])
def test_parameters_outside_their_range_are_refused(setting: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        RandomPruning(**setting)
