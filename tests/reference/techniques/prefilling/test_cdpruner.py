"""CDPruner."""

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.modules.matcher import matcher_of
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.trim import matcher_config
from lvlm_atlas.reference.techniques.prefilling.cdpruner import CDPruner, cdpruner, kernel, relevance


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def random_tokens(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def by_determinants(kernel_NN: Tensor, keep: int) -> list[int]:
    """Greedy choice by the determinant of each candidate set."""
    chosen: list[int] = []
    for _ in range(keep):
        free = [n for n in range(len(kernel_NN)) if n not in chosen]
        chosen.append(max(free, key=lambda n: float(kernel_NN[[*chosen, n]][:, [*chosen, n]].det())))
    return sorted(chosen)


@pytest.mark.parametrize("seed", range(6))
def test_each_choice_raises_the_determinant_most(device: str, seed: int) -> None:
    token = random_tokens(1, 14, 9, seed=seed, device=device)
    weight = random_tokens(1, 14, seed=seed + 9, device=device).abs() + 0.1
    assert cdpruner(token, weight, 6)[0].tolist() == by_determinants(kernel(token, weight)[0], 6)


def test_a_patch_is_the_more_relevant_the_less_it_resembles_the_text(device: str) -> None:
    score = relevance(directions(0, 90, 180, 120, device=device), directions(0, device=device)[0])
    assert score.argsort(descending=True).tolist() == [[2, 3, 1, 0]]


def test_relevance_lies_between_just_above_nought_and_just_above_one(device: str) -> None:
    score = relevance(directions(0, 60, 180, device=device), directions(0, device=device)[0])
    # −1, −0.5 and 1, stretched from a span of two, with 1e-6 added before.
    assert score[0].tolist() == pytest.approx([0.5e-6, 0.25 + 0.5e-6, 1 + 0.5e-6], abs=1e-12)


def test_relevance_is_the_mean_over_the_pieces_of_a_text(device: str) -> None:
    patch, text = random_tokens(2, 7, 5, device=device), random_tokens(3, 5, seed=1, device=device)
    cosine = torch.nn.functional.cosine_similarity
    raw = torch.stack([-cosine(patch, piece[None, None], dim=-1) for piece in text]).mean(0)
    expected = (raw - raw.min() + 1e-6) / (raw.max() - raw.min())
    torch.testing.assert_close(relevance(patch, text), expected)


def test_the_least_and_the_greatest_are_those_of_all_frames(device: str) -> None:
    patch = torch.cat([directions(10, 20, 30, device=device), directions(100, 150, 170, device=device)])
    score = relevance(patch, directions(0, device=device)[0])
    assert float(score[0].max()) < float(score[1].min())
    assert (float(score.min()), float(score.max())) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))


def test_equally_relevant_patches_count_alike(device: str) -> None:
    score = relevance(directions(30, 30, 30, device=device), directions(0, device=device)[0])
    assert score.tolist() == [[1, 1, 1]]
    assert cdpruner(directions(0, 1, 90, device=device), score, 2).tolist() == [[0, 2]]


def test_relevance_weighs_on_both_sides(device: str) -> None:
    token, weight = random_tokens(1, 5, 3, device=device), torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5]], device=device)
    made = kernel(token, weight.double())[0]
    cosine = torch.nn.functional.cosine_similarity(token[0][:, None], token[0][None], dim=-1)
    torch.testing.assert_close(made, cosine * weight[0][:, None].double() * weight[0][None].double())
    torch.testing.assert_close(made, made.mT)


def test_a_relevant_patch_comes_before_an_unlike_one_and_a_duplicate_last(device: str) -> None:
    token = directions(0, 0, 45, 90, device=device)
    weight = torch.tensor([[1.0, 0.99, 0.9, 0.05]], dtype=torch.float64, device=device)
    # 0 first. Gains: duplicate 0, 45° 0.81 · sin² 45° = 0.405, 90° 0.0025.
    assert cdpruner(token, weight, 2).tolist() == [[0, 2]]
    even = torch.ones_like(weight)
    assert cdpruner(token, even, 2).tolist() == [[0, 3]]


def test_beyond_the_rank_the_rest_follows_by_place_and_once_each(device: str) -> None:
    token = directions(0, 90, 0, 90, 45, device=device)
    weight = torch.ones(1, 5, dtype=torch.float64, device=device)
    assert cdpruner(token, weight, 4).tolist() == [[0, 1, 2, 3]]
    assert cdpruner(token, weight, 9).tolist() == [[0, 1, 2, 3, 4]]
    assert cdpruner(torch.zeros_like(token), weight, 3).tolist() == [[0, 1, 2]]


def test_a_choice_is_sorted_and_frames_choose_on_their_own(device: str) -> None:
    token, weight = random_tokens(3, 30, 8, device=device), random_tokens(3, 30, seed=1, device=device).abs() + 0.01
    kept = cdpruner(token, weight, 11)
    assert bool((kept.diff(dim=1) > 0).all())
    assert torch.equal(kept, torch.cat([cdpruner(token[f : f + 1], weight[f : f + 1], 11) for f in range(3)]))


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def pruned(lvlm: LVLM, patches: Patches, tokens: int, seed: int = 0) -> tuple[Run, Patches]:
    run = lvlm.begin(random_request(lvlm.config, frames=2, seed=seed), [CDPruner(tokens)])
    with torch.inference_mode():
        return run, run.acts.at("encoder-output")[0].encoder_output(EncoderOutput(patches))


def test_similarity_is_that_of_the_adapters_tokens_and_relevance_that_of_the_encoders_patches(lvlm: LVLM) -> None:
    hidden = random_tokens(2, 1 + 30, 32, device=str(lvlm.device)).float()
    run, after = pruned(lvlm, Patches(hidden, prefix=1), 9)
    matcher, patch = matcher_of(run, matcher_config(lvlm.config.vision)), hidden[:, 1:]
    with torch.inference_mode():
        weight = relevance(matcher.project(patch), matcher.embed_text(run.request.text_N)[None])
        expected, of_patches = cdpruner(lvlm.dialect.adapter(patch), weight, 9), cdpruner(patch, weight, 9)
    assert (after.prefix, after.attention) == (0, None)
    assert torch.equal(after.hidden_FND, torch.stack([patch[f, expected[f]] for f in range(2)]))
    assert not torch.equal(expected, of_patches)


def test_a_long_question_is_read_in_pieces(lvlm: LVLM) -> None:
    short, long = (random_request(lvlm.config, frames=1, text_tokens=n, max_new_tokens=1) for n in (60, 200))
    calls: list[int] = []
    run = lvlm.begin(long, [CDPruner(tokens=5)])
    matcher = matcher_of(run, matcher_config(lvlm.config.vision))
    hook = matcher.text_model.register_forward_pre_hook(lambda _module, args: calls.append(len(args[0])))
    for request in (short, long):
        lvlm.run(request, [CDPruner(tokens=5)])
    hook.remove()
    assert calls == [61, 77, 77, 49]  # 60, and 76 + 76 + 48, an end token each


def test_the_question_decides(lvlm: LVLM) -> None:
    patches = Patches(random_tokens(2, 1 + 30, 32, device=str(lvlm.device)).float(), prefix=1)
    one, again, other = (pruned(lvlm, patches, 9, seed)[1].hidden_FND for seed in (0, 0, 5))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("frames", [1, 3])
def test_each_frame_keeps_as_many(lvlm: LVLM, frames: int) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=frames, max_new_tokens=1), [CDPruner(tokens=20)]).trace
    assert trace.llm_vision_tokens == [20 * frames] * 4


def test_keeping_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    plain = lvlm.run(request)
    for tokens in (64, 1000):
        assert torch.equal(lvlm.run(request, [CDPruner(tokens=tokens)]).logits_NC, plain.logits_NC)


def test_frames_that_come_before_the_question_and_other_encoders_are_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    bare = type(request)(**{**vars(request), "prompt_N": request.prompt_N[request.prompt_N == request.image_token_id]})
    with pytest.raises(Refusal, match="chooses by the question"):
        lvlm.run(bare, [CDPruner(tokens=5)])
    with pytest.raises(ValueError, match="at least 1"):
        CDPruner(tokens=0)
