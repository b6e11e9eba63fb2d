"""DART."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.dart import Dart, dart, each_takes, key_size, least_alike
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def by_hand(x_ND: Tensor, size_N: Tensor, vision: list[int], reduction: float, pivots: tuple[int, int]) -> list[int]:
    """Ranks of the kept vision tokens, with lists."""
    largest = sorted(vision, key=lambda n: -float(size_N[n]))[: pivots[0]]
    text = sorted(range(vision[-1] + 1, len(x_ND)), key=lambda n: -float(size_N[n]))[: pivots[1]]
    left = [n for n in vision if n not in largest]
    kept = set(largest)
    for pivot in sorted(largest) + sorted(text):
        cosine = torch.nn.functional.cosine_similarity(x_ND[pivot][None], x_ND, dim=-1)
        taken = sorted(left, key=lambda n: float(cosine[n]))[: int(len(vision) * (1 - reduction) / sum(pivots))]
        kept |= {*taken}
        left = [n for n in left if n not in taken]
    return sorted(vision.index(n) for n in kept)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("reduction", "pivots"), [(0.778, (4, 4)), (0.5, (1, 0)), (0.3, (3, 2)), (0.0, (2, 5))])
def test_equals_the_definition(device: str, seed: int, reduction: float, pivots: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(40, 6, generator=generator, dtype=torch.float64).to(device)
    size_N = torch.rand(40, generator=generator).to(device)
    vision = sorted({*torch.randperm(30, generator=generator)[:23].tolist()})
    place_BV = torch.tensor([vision], device=device)
    kept = dart(x_ND[None], size_N[None], place_BV, reduction, *pivots)[0].tolist()
    assert kept == by_hand(x_ND, size_N, vision, reduction, pivots)


def test_a_pivot_takes_what_resembles_it_least(device: str) -> None:
    x = directions(0, 5, 60, 120, 175, device=device)
    free = torch.tensor([[False, True, True, True, True]], device=device)
    taken = least_alike(x, torch.tensor([[0]], device=device), free, 2)
    assert taken.tolist() == [[False, False, False, True, True]]


def test_each_pivot_chooses_among_what_is_left(device: str) -> None:
    # Both pivots, 0° and 10°, resemble 180° least; the second one gets the next.
    x = directions(0, 10, 180, 100, 50, device=device)
    free = torch.tensor([[False, False, True, True, True]], device=device)
    pivots = torch.tensor([[0, 1]], device=device)
    assert least_alike(x, pivots, free, 1).tolist() == [[False, False, True, True, False]]
    assert least_alike(x, pivots, free, 2).tolist() == [[False, False, True, True, True]]  # 100° and 50° at the end


def test_duplicates_of_a_pivot_are_taken_last(device: str) -> None:
    x = directions(0, 0, 0, 90, 91, device=device)
    size = torch.tensor([[9.0, 1, 1, 1, 1]], device=device)
    place = torch.arange(5, device=device)[None]
    assert dart(x, size, place, 0.6, 1, 0).tolist() == [[0, 3, 4]]


def test_pivots_have_the_largest_keys_of_their_own_modality(device: str) -> None:
    x = directions(0, 40, 80, 120, 0, 10, 90, device=device)
    size = torch.tensor([[1.0, 8, 2, 3, 40, 50, 90]], device=device)
    place = torch.arange(4, device=device)[None]
    # The image's pivot, 40°, takes 120°; the text's, 90°, takes 0°, where one at 10° would take 80°.
    assert dart(x, size, place, 0.5, 1, 1).tolist() == [[0, 1, 3]]


def test_text_before_the_image_gives_no_pivot(device: str) -> None:
    x = directions(180, 0, 90, 175, 100, 2, device=device)
    size = torch.tensor([[90.0, 9, 1, 1, 1, 1]], device=device)
    place = torch.tensor([[1, 2, 3, 4]], device=device)
    # The image's pivot, 0°, takes 175°; that of the text behind, 2°, takes 100°, where 180° would take 90°.
    assert dart(x, size, place, 0.5, 1, 1).tolist() == [[0, 2, 3]]


@pytest.mark.parametrize(
    ("tokens", "reduction", "pivots", "each"),
    [(576, 0.778, 8, 15), (576, 0.5, 8, 36), (576, 0.9, 8, 7), (10, 0.5, 8, 0), (24, 0.0, 8, 3), (7, 0.0, 1, 7)],
)
def test_what_a_pivot_takes_is_rounded_down(tokens: int, reduction: float, pivots: int, each: int) -> None:
    assert each_takes(tokens, reduction, pivots) == each


def test_the_images_pivots_come_on_top_of_the_share(device: str) -> None:
    x = torch.randn(1, 580, 8, generator=torch.Generator().manual_seed(0)).to(device)
    size = torch.rand(1, 580, generator=torch.Generator().manual_seed(1)).to(device)
    place = torch.arange(576, device=device)[None]
    assert dart(x, size, place, 0.778, 4, 4).shape == (1, 124)  # 4 + 8 · 15, where a share of 0.222 were 128
    assert dart(x, size, place, 0.99, 4, 4).shape == (1, 4)
    assert dart(x[:, :3], size[:, :3], place[:, :3], 0.5, 4, 0).tolist() == [[0, 1, 2]]


def test_the_size_of_a_key_is_the_sum_over_heads_of_absolute_values(device: str) -> None:
    key = torch.tensor([[[[3.0, -4.0], [1.0, 1.0]], [[0.0, 0.0], [-2.0, -3.0]]]], device=device)  # 2 heads, 2 tokens
    probe = Probe(key, key, causal=True)
    assert key_size(probe).tolist() == [[7.0, 7.0]]  # Euclid would say 5 and 5.02
    dropped = probe.then(lambda weight: weight[..., 1:])
    assert key_size(dropped).shape == (1, 1)


def test_keys_before_the_tokens_do_not_count(device: str) -> None:
    key = torch.tensor([[[[9.0], [1.0], [2.0]]]], device=device)
    assert key_size(Probe(key[:, :, 1:], key, causal=True)).tolist() == [[1.0, 2.0]]


def test_states_are_compared_under_the_final_norm(lvlm: LVLM) -> None:
    model = LVLM.random(device=lvlm.device)
    request = random_request(model.config, frames=2)
    plain = model.run(request, [Dart(reduction=0.7)]).trace.kept[2][0].tolist()
    weight = model.language_model.model.norm.weight
    with torch.no_grad():
        weight.copy_(torch.linspace(0.01, 4, len(weight)))
    assert model.run(request, [Dart(reduction=0.7)]).trace.kept[2][0].tolist() != plain


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_layer_before_gives_the_keys_and_the_layer_itself_is_shorter(lvlm: LVLM, layer: int) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=1)
    trace = lvlm.run(request, [Dart(layer=layer, reduction=0.7)]).trace
    kept = 4 + 8 * int(128 * (1 - 0.7) / 8)
    assert trace.llm_vision_tokens == [128] * layer + [kept] * (4 - layer)
    assert trace.probe_entries == 0  # no row of attention is formed
    with torch.inference_mode():
        inputs = lvlm.prepare(lvlm.begin(request))
        x_BND, keys = inputs.hidden_BND, []
        for decoder in list(lvlm.language_model.layers)[:layer]:
            query, key, value = decoder.project(x_BND, inputs.position_BN)
            keys.append(key)
            logit = query @ key.repeat_interleave(2, dim=1).mT / query.shape[-1] ** 0.5
            later = torch.ones(144, 144, dtype=torch.bool, device=lvlm.device).triu(1)
            weight = logit.masked_fill(later, float("-inf")).softmax(-1)
            x_BND = decoder.finish(x_BND, weight @ value.repeat_interleave(2, dim=1))
        size_N = keys[-1][0].abs().sum(dim=(0, 2))
        vision = inputs.vision_BN[0].nonzero()[:, 0].tolist()
        expected = by_hand(lvlm.final_norm(x_BND)[0], size_N, vision, 0.7, (4, 4))
    places = [*range(4), *(vision[rank] for rank in expected), *range(132, 144)]
    assert trace.kept[layer][0].tolist() == places


def test_positions_keep_their_gaps_and_order(lvlm: LVLM) -> None:
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config, frames=2), [Dart(layer=1, reduction=0.8)])
        prefill = lvlm.prefill(lvlm.prepare(run), run)
    kept = run.trace.kept[1][0].tolist()
    assert all(one < two for one, two in pairwise(kept))
    assert {*range(4), *range(132, 144)} <= {*kept}
    assert prefill.cache.next_position.tolist() == [[144]] * 4
    assert prefill.outputs.position_BN[0].tolist() == kept


def test_keeping_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    plain, kept = lvlm.run(request), lvlm.run(request, [Dart(reduction=0.0, text_pivots=1)])
    torch.testing.assert_close(kept.logits_NC, plain.logits_NC, atol=1e-5, rtol=1e-5)


def test_too_little_text_behind_the_image_is_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1, text_tokens=4)
    with pytest.raises(Refusal, match="4 pivots from the text behind the last vision token, which has 3"):
        lvlm.run(request, [Dart()])
    assert lvlm.run(request, [Dart(text_pivots=3)]).trace.llm_vision_tokens[2] < 64


def test_beside_another_technique_between_the_layers_it_is_refused(lvlm: LVLM) -> None:
    for stack in ([FastV(), Dart()], [Dart(), FastV()]):
        with pytest.raises(Refusal, match="FastV may drop some between its layers"):
            lvlm.run(random_request(lvlm.config, frames=1), stack)


def test_a_layer_beyond_the_model_and_arguments_out_of_range_are_refused(lvlm: LVLM) -> None:
    with pytest.raises(Refusal, match=r"1\.\.3 for an LLM of 4 layers, got 4"):
        lvlm.run(random_request(lvlm.config, frames=1), [Dart(layer=4)])
    for wrong in ({"layer": 0}, {"image_pivots": 0}, {"text_pivots": -1}, {"reduction": 1.0}, {"reduction": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Dart(**wrong)
