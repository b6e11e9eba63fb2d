"""CoverPruner."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.techniques.prefilling.coverpruner import CoverPruner, coverage, coverpruner, likeness
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def draw(tokens: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    token = torch.randn(1, tokens, width, generator=generator, dtype=torch.float64)
    return token, torch.rand(1, tokens, generator=generator, dtype=torch.float64)


def test_the_demand_is_that_of_the_covered(device: str) -> None:
    # Two pairs at right angles to each other. Each token of a pair covers its partner as well as itself.
    token = torch.tensor([[[1.0, 0], [1, 0.1], [-1, 0.1], [-1, 0]]], dtype=torch.float64, device=device)
    wanted = torch.tensor([[0.0, 0, 9, 0]], dtype=torch.float64, device=device)
    # All that is wanted is token 2. SCOPE's weights, on the chosen, would give the others no chance and no reason.
    assert coverpruner(token, wanted, 2)[0].tolist() == [2, 0]
    beside = torch.tensor([[5.0, 0, 4, 4.5]], dtype=torch.float64, device=device)
    assert coverpruner(token, beside, 1)[0].tolist() in ([2], [3])  # 4 + 4.5 for the one pair against 5 for the other


def test_what_all_tokens_share_covers_nothing(device: str) -> None:
    token, _ = draw(7, 5, 0)
    moved = (token + 50).to(device)
    torch.testing.assert_close(likeness(moved), likeness(token.to(device)), atol=1e-9, rtol=1e-9)
    assert bool((torch.nn.functional.cosine_similarity(moved[0, :1], moved[0], dim=-1) > 0.99).all())
    assert float(likeness(moved)[0].triu(1).max()) < 0.99


@settings(max_examples=30)
@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 999))
def test_the_choice_is_the_greedy_maximum_of_the_coverage(tokens: int, keep: int, seed: int) -> None:
    token, demand = draw(tokens, 3, seed)
    chosen = coverpruner(token, demand, keep)[0].tolist()
    centred = token[0] - token[0].mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(centred[:, None], centred[None], dim=-1).clamp(min=0)
    expected: list[int] = []
    for _ in range(min(keep, tokens)):
        gain = [
            float((demand[0] * cosine[:, [*expected, n]].amax(dim=1)).sum()) if n not in expected else -1.0
            for n in range(tokens)
        ]
        expected.append(max(range(tokens), key=lambda n: (round(gain[n], 9), -n)))
    assert chosen == expected


@settings(max_examples=20)
@given(st.integers(3, 8), st.integers(1, 3), st.integers(0, 999))
def test_it_reaches_the_known_part_of_the_best_cover(tokens: int, keep: int, seed: int) -> None:
    token, demand = draw(tokens, 3, seed)
    alike = likeness(token)
    reached = float(coverage(alike, demand, coverpruner(token, demand, keep)))
    best = max(float(coverage(alike, demand, torch.tensor([each]))) for each in combinations(range(tokens), keep))
    assert (1 - 1 / torch.e) * best <= reached + 1e-9 <= best + 2e-9
    assert float(coverage(alike, demand, torch.empty(1, 0, dtype=torch.long))) == 0


def test_the_demand_is_what_the_text_pays_in_the_first_layer(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    with torch.inference_mode():
        run = lvlm.begin(request, [CoverPruner(tokens=9)])
        kept = lvlm.prefill(lvlm.prepare(run), run).outputs.index_BN[0].tolist()
        inputs = lvlm.prepare(lvlm.begin(request))
        query, key, _ = next(iter(lvlm.language_model.layers)).project(inputs.hidden_BND, inputs.position_BN)
        logit = query @ key.repeat_interleave(2, dim=1).mT / query.shape[-1] ** 0.5
        later = torch.ones(144, 144, dtype=torch.bool, device=lvlm.device).triu(1)
        weight = logit.masked_fill(later, float("-inf")).softmax(-1)
    seen = inputs.vision_BN[0]
    demand = weight[0, :, 132:][..., seen].mean(dim=(0, 1))
    chosen = coverpruner(inputs.hidden_BND[:, seen], demand[None], 9)[0].sort().values
    vision = seen.nonzero()[:, 0]
    assert kept == [*range(4), *vision[chosen].tolist(), *range(132, 144)]
    assert run.trace.probe_entries == 4 * sum(range(133, 145))
    with pytest.raises(Refusal, match="CoverPruner compares the tokens as they entered the LLM, and FastV may drop"):
        lvlm.run(request, [CoverPruner(tokens=9), FastV()])


def test_layers_behind_the_first_run_on_fewer_and_keeping_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    assert lvlm.run(request, [CoverPruner(tokens=30)]).trace.llm_vision_tokens == [128, 30, 30, 30]
    same = lvlm.run(request, [CoverPruner(tokens=128)])
    assert torch.equal(same.logits_NC, lvlm.run(request).logits_NC)
    assert same.trace.probe_entries == 0


def test_without_text_behind_the_image_every_token_counts_alike(lvlm: LVLM) -> None:
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config, frames=1), [CoverPruner(tokens=5)])
        inputs = lvlm.prepare(run)
        alone = inputs.keep(inputs.vision_places())
        kept = lvlm.prefill(alone, run).outputs.index_BN[0] - 4
    assert kept.tolist() == coverpruner(alone.hidden_BND, torch.ones(1, 64), 5)[0].sort().values.tolist()


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens must be at least 1, got 0"):
        CoverPruner(tokens=0)
