"""SIEVE."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV
from lvlm_atlas.reference.techniques.prefilling.sieve import Sieve, relevance, residual, select_unlike, unexplained


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def draw(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def test_in_the_span_of_the_text_little_is_left_and_outside_of_it_everything(device: str) -> None:
    text = torch.tensor([[[3.0, 0, 0, 0], [-3, 0, 0, 0], [0, 3, 0, 0], [0, -3, 0, 0]]], device=device)
    vision = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 0], [0, 0, -1, 0]]], device=device)
    centred, rest = residual(vision, text, 1.0)
    # Eigenvalues of G: 18, 18, 0, 0; half of the sum is reached by the first, all of it by the second: λ = 18.
    # v̂ = 18 / (18 + 18) of what lies in the span, so that a half is left, and nothing of what lies outside.
    assert unexplained(centred, rest)[0].tolist() == pytest.approx([0.5, 1, 0.5, 1], abs=1e-4)


def test_the_ridge_keeps_weak_directions_of_the_text_from_explaining_much(device: str) -> None:
    text = torch.tensor([[[10.0, 0], [-10, 0], [0, 0.1], [0, -0.1]]], dtype=torch.float64, device=device)
    vision = torch.tensor([[[1.0, 0], [0, 1], [-1, 0], [0, -1]]], dtype=torch.float64, device=device)
    share = unexplained(*residual(vision, text, 0.75))[0].tolist()  # λ = 200, the first eigenvalue; the second is 0.02
    assert share == pytest.approx([0.5, 200 / 200.02, 0.5, 200 / 200.02], rel=1e-5)
    assert unexplained(*residual(vision, text, 1.0))[0, 1] == pytest.approx(0.5, abs=0.01)  # λ = 0.02


def test_what_all_vision_tokens_share_explains_nothing(device: str) -> None:
    text, vision = draw(1, 5, 8, device=device), draw(1, 9, 8, seed=1, device=device)
    moved = residual(vision + 100 * draw(8, seed=2, device=device), text - 7, 0.75)
    torch.testing.assert_close(moved[1], residual(vision, text, 0.75)[1])


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 12), st.floats(0.05, 1.0), st.integers(0, 1000))
def test_it_is_the_minimum_of_the_ridge_regression(text: int, vision: int, energy: float, seed: int) -> None:
    t, v = draw(1, text, 6, seed=seed), draw(1, vision, 6, seed=seed + 1)
    centred, rest = residual(v, t, energy)
    t = t - t.mean(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh(t @ t.mT)[0].flip(0).clamp(min=0).tolist()
    reached, ridge = 0.0, values[-1]
    for value in values:
        reached += value
        if reached >= energy * sum(values) * (1 - 1e-6):
            ridge = value
            break
    stacked = torch.cat([t[0].T, (ridge + 1e-6 * values[0]) ** 0.5 * torch.eye(text, dtype=torch.float64)])
    wanted = torch.cat([centred[0].T, torch.zeros(text, vision, dtype=torch.float64)])
    weight = torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution
    torch.testing.assert_close(rest[0], centred[0] - weight.T @ t[0], atol=1e-4, rtol=1e-4)
    assert bool((unexplained(centred, rest) <= 1 + 1e-9).all())


def test_only_the_heads_that_look_at_the_image_count(device: str) -> None:
    row = torch.zeros(1, 3, 2, 3, device=device)
    row[0, 0, :, 0], row[0, 1, 0, 1], row[0, 2, 1, 2] = 0.4, 0.5, 0.3  # the heads pay 0.8, 0.5 and 0.3 in all
    assert relevance(row, 1)[0].tolist() == pytest.approx([0.8, 0, 0])
    assert relevance(row, 2)[0].tolist() == pytest.approx([0.8, 0.5, 0])
    assert relevance(row, 9)[0].tolist() == pytest.approx([0.8, 0.5, 0.3])


def test_a_choice_lowers_what_points_along_it_whatever_the_sign(device: str) -> None:
    rest = torch.tensor([[[1.0, 0], [-2, 0], [0.6, 0.8], [0, 0]]], device=device)
    score = torch.tensor([[4.0, 3.9, 2.0, 1.0]], device=device)
    # Behind token 0 the others have 0, 2 · (1 − 0.36) = 1.28 and 1; behind token 2, the zero vector keeps its 1.
    assert select_unlike(score, rest, 4)[0].tolist() == [0, 2, 3, 1]


def test_tokens_that_differ_only_in_what_the_text_explains_count_as_alike(device: str) -> None:
    text = torch.tensor([[[1000.0, 0, 0, 0], [-1000, 0, 0, 0], [0, 0, 0, 10], [0, 0, 0, -10]]], device=device)
    vision = torch.tensor([[[8.0, 1, 0, 0], [-8, 1, 0, 0], [0, -1, 1.5, 0], [0, -1, -1.5, 0]]], device=device)
    score = torch.tensor([[5.0, 4.9, 0.2, 0.1]], device=device)
    _, rest = residual(vision, text, 1.0)
    assert select_unlike(score, rest, 2)[0].tolist() == [0, 2], "behind the first the second has nothing left"
    assert select_unlike(score, vision, 2)[0].tolist() == [0, 1], "though they point in different directions"


def test_a_token_needs_both_attention_and_an_unexplained_rest(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    with torch.inference_mode():
        run = lvlm.begin(request, [Sieve(tokens=9, layer=1)])
        kept = lvlm.prefill(lvlm.prepare(run), run).outputs.index_BN[0].tolist()
        inputs = lvlm.prepare(lvlm.begin(request))
        layer = next(iter(lvlm.language_model.layers))
        query, key, value = layer.project(inputs.hidden_BND, inputs.position_BN)
        logit = query @ key.repeat_interleave(2, dim=1).mT / query.shape[-1] ** 0.5
        later = torch.ones(144, 144, dtype=torch.bool, device=lvlm.device).triu(1)
        weight = logit.masked_fill(later, float("-inf")).softmax(-1)
        x_ND = layer.finish(inputs.hidden_BND, weight @ value.repeat_interleave(2, dim=1))[0]
        seen = inputs.vision_BN[0]
        centred, rest = residual(x_ND[seen][None], x_ND[~seen][None], 0.75)
        score = (weight[:, :, ~seen][..., seen].sum(dim=(1, 2)) * unexplained(centred, rest)) ** 2
        ranks = select_unlike(score, rest, 9)[0].sort().values
    vision = seen.nonzero()[:, 0]
    assert kept == sorted([*(~seen).nonzero()[:, 0].tolist(), *vision[ranks].tolist()])


@pytest.mark.parametrize("layer", [1, 3])
def test_layers_from_there_on_run_on_fewer(lvlm: LVLM, layer: int) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=2, max_new_tokens=1), [Sieve(tokens=30, layer=layer)]).trace
    assert trace.llm_vision_tokens == [128] * layer + [30] * (4 - layer)


def test_keeping_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    plain, kept = lvlm.run(request), lvlm.run(request, [Sieve(tokens=64)])
    assert torch.equal(kept.logits_NC, plain.logits_NC)
    assert kept.trace.probe_entries == 0


def test_of_what_another_left_it_drops_the_rest(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=1)
    trace = lvlm.run(request, [FastV(layer=1, keep_ratio=0.5), Sieve(tokens=20, layer=2)]).trace
    assert trace.llm_vision_tokens == [128, 64, 20, 20]


def test_frames_without_text_and_layers_that_are_not_there_are_refused(lvlm: LVLM) -> None:
    with pytest.raises(Refusal, match=r"layer must be in 1\.\.3 for an LLM of 4 layers, got 4"):
        lvlm.run(random_request(lvlm.config, frames=1), [Sieve(layer=4)])
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config, frames=1), [Sieve(tokens=3)])
        inputs = lvlm.prepare(run)
        frames_alone = inputs.keep(inputs.vision_places())
        with pytest.raises(Refusal, match="SIEVE chooses by the text, and these frames come without any"):
            lvlm.prefill(frames_alone, run)


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"layer": 0}, {"heads": 0}, {"energy": 0.0}, {"energy": 1.5}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sieve(**wrong)  # type: ignore[arg-type]
