"""IDPruner."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.modules.importance import ImportanceScorer
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.ops.diversity import maximal_marginal_relevance
from lvlm_atlas.reference.techniques.prefilling.idpruner import IDPruner, Pruning, idpruner, importance
from lvlm_atlas.reference.techniques.prefilling.visionselector import VisionSelector


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def scores(*values: float, device: str = "cpu") -> Tensor:
    return torch.tensor([values], dtype=torch.float64, device=device)


def test_importance_is_stretched_to_the_scale_of_cosines_request_by_request(device: str) -> None:
    stretched = importance(torch.cat([scores(-3, 1, 5), scores(0, 100, 25)]).to(device))
    assert torch.allclose(stretched, torch.cat([scores(0, 0.5, 1), scores(0, 1, 0.25)]).to(device), atol=1e-6)
    assert importance(scores(7, 7, 7, device=device)).tolist() == [[0, 0, 0]]  # no division by a span of 0


def test_the_first_is_the_most_important_and_the_next_must_differ_from_it(device: str) -> None:
    # Importance 1, 0.9, 0.5, 0. Behind the first: 0.45 − 0.5 · cos 10° = −0.04, 0.25 − 0.5 · cos 80° = 0.16, 0 + 0.5.
    score, x = scores(10, 9, 5, 0, device=device), directions(0, 10, 80, 180, device=device)
    assert idpruner(score, x, 4).tolist() == [[0, 3, 2, 1]]
    # At 0.8: 0.72 − 0.2 · 0.985 = 0.52, 0.4 − 0.03 = 0.37, 0 + 0.2.
    assert idpruner(score, x, 2, weight=0.8).tolist() == [[0, 1]]


def test_the_chosen_token_most_like_it_counts_and_not_the_mean_or_the_last(device: str) -> None:
    # Behind 0° and 180° a token at 5° is like the first, whatever the second is; one at 90° is like neither.
    score, x = scores(10, 9, 4, 0, device=device), directions(0, 180, 5, 90, device=device)
    assert idpruner(score, x, 3).tolist() == [[0, 1, 3]]


def test_the_first_round_knows_no_likeness_and_is_not_weighted(device: str) -> None:
    x = directions(0, 90, 180, device=device)
    assert idpruner(scores(1, 3, 2, device=device), x, 1, weight=0.0).tolist() == [[1]]


def test_at_a_weight_of_one_importance_decides_alone(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    score, x = torch.randn(2, 30, generator=generator).to(device), torch.randn(2, 30, 5, generator=generator).to(device)
    assert torch.equal(idpruner(score, x, 9, weight=1.0), score.argsort(dim=1, descending=True)[:, :9])


def test_tokens_of_a_round_do_not_repel_each_other(device: str) -> None:
    score, x = scores(10, 9.9, 5, 0, device=device), directions(0, 1, 90, 180, device=device)
    assert idpruner(score, x, 2).tolist() == [[0, 3]]
    assert idpruner(score, x, 2, at_once=2).tolist() == [[0, 1]]
    # A round of three, and a last one of what is left to choose.
    assert idpruner(score, x, 4, at_once=3).tolist() == [[0, 1, 2, 3]]


def test_length_does_not_matter_and_a_duplicate_comes_last(device: str) -> None:
    x = directions(0, 0, 90, 120, device=device) * scores(1, 50, 3, 2, device=device)[..., None]
    assert idpruner(scores(5, 5, 1, 0, device=device), x, 4, weight=0.1).tolist() == [[0, 3, 2, 1]]


def test_equals_follow_by_place_and_once_each(device: str) -> None:
    ones = torch.ones(1, 6, 3, device=device)
    assert idpruner(torch.ones(1, 6, device=device), ones, 6, at_once=4).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert idpruner(torch.ones(1, 6, device=device), ones, 0).shape == (1, 0)


@settings(max_examples=60)
@given(st.data())
def test_the_choice_is_that_of_plain_loops(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, 16))
    keep = data.draw(st.integers(0, tokens))
    weight = data.draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
    at_once = data.draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    score = torch.randn(2, tokens, generator=generator, dtype=torch.float64)
    x = torch.randn(2, tokens, 4, generator=generator, dtype=torch.float64)
    result = idpruner(score, x, keep, weight, at_once)
    for row in range(2):
        least, greatest = float(score[row].min()), float(score[row].max())
        worth = [(float(each) - least) / (greatest - least + 1e-6) for each in score[row]]
        chosen: list[int] = []
        picks = result[row].tolist()
        assert len(set(picks)) == len(picks) == keep
        while len(chosen) < keep:
            value = {}
            for place in {*range(tokens)} - {*chosen}:
                near = [float(torch.cosine_similarity(x[row, place], x[row, other], dim=0)) for other in chosen]
                value[place] = weight * worth[place] - (1 - weight) * max(near) if chosen else worth[place]
            best = sorted(value.values(), reverse=True)
            for rank, pick in enumerate(picks[len(chosen) : len(chosen) + at_once]):
                assert value[pick] == pytest.approx(best[rank], abs=1e-9)  # two may tie but for rounding
                chosen.append(pick)


def test_the_prompt_keeps_text_order_and_position_ids(device: str) -> None:
    scorer = drawn(lambda: ImportanceScorer(6, 3), device=device)
    hidden = torch.randn(12, 6, generator=torch.Generator().manual_seed(4)).to(device)
    vision = [False, *[True] * 4, False, *[True] * 4, False, False]
    place = torch.arange(12, device=device)[None]
    sequence = Sequence(hidden[None], place, torch.tensor([vision], device=device), place)
    out = Pruning(IDPruner(reduction=0.5), scorer).llm_input(LlmInput(sequence))
    x = hidden[None, [1, 2, 3, 4, 6, 7, 8, 9]]
    kept = sorted([1, 2, 3, 4, 6, 7, 8, 9][rank] for rank in idpruner(scorer(x), x, 4)[0].tolist())
    assert out.index_BN.tolist() == out.position_BN.tolist() == [sorted([0, 5, 10, 11, *kept])]
    assert torch.equal(out.hidden_BND[0], hidden[out.index_BN[0]])


def test_the_scorer_is_that_of_visionselector(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    alone = lvlm.prepare(lvlm.begin(request, [VisionSelector(reduction=0.9)]))
    both = lvlm.prepare(lvlm.begin(request, [IDPruner(reduction=0.9, weight=1.0)]))
    assert torch.equal(alone.index_BN, both.index_BN)
    diverse = lvlm.prepare(lvlm.begin(request, [IDPruner(reduction=0.9)]))
    assert diverse.length == alone.length
    assert not torch.equal(alone.index_BN, diverse.index_BN)


def test_dropping_nothing_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    assert torch.equal(lvlm.run(request, [IDPruner(reduction=0.0)]).logits_NC, lvlm.run(request).logits_NC)


def test_more_than_there_are_or_rounds_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"keep must be in 0\.\.3 \(the tokens\), got 4"):
        maximal_marginal_relevance(torch.ones(1, 3), torch.ones(1, 3, 3), 4, 0.5)
    with pytest.raises(ValueError, match="at_once must be at least 1, got 0"):
        maximal_marginal_relevance(torch.ones(1, 3), torch.ones(1, 3, 3), 2, 0.5, 0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"reduction": 1.0}, "reduction must"), ({"weight": 1.1}, "weight must"), ({"at_once": 0}, "at_")],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        IDPruner(**wrong)  # type: ignore[arg-type]
