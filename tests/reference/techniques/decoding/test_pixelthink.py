"""PixelThink: budget, score, reward, advantages, and answers that end at their budget."""

from __future__ import annotations

import pytest
import torch

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import Stop
from lvlm_atlas.reference.ops.certainty import margin_uncertainty
from lvlm_atlas.reference.techniques.decoding.pixelthink import (
    PixelThink,
    advantages,
    length_budget,
    length_score,
    reward,
)


@pytest.mark.parametrize(
    ("difficulty", "uncertainty", "expected"),
    [(0, 0.9, 96), (3.49, 0.9, 96), (3.5, 0.9, None), (4.99, 0.0, None), (5.0, 0.0, 256), (10, 0.4, 266)],
)
def test_the_budget_goes_by_difficulty_and_uncertainty(
    difficulty: float, uncertainty: float, expected: float | None
) -> None:
    assert length_budget(difficulty, uncertainty) == expected


def test_within_the_budget_all_lengths_are_worth_the_same() -> None:
    assert [length_score(length, 96) for length in (1, 50, 96)] == [1, 1, 1]
    assert length_score(146, 96) == pytest.approx(0.9)
    assert length_score(596, 96) == 0
    assert length_score(10_000, 96) == 0


def test_between_easy_and_hard_length_does_not_count() -> None:
    assert length_score(100_000, length_budget(4, 1)) == 1
    lvlm = LVLM.random()
    request = random_request(lvlm.config, frames=1, max_new_tokens=9)
    assert lvlm.run(request, [PixelThink(difficulty=4, easy=2, hard=2, gain=0)]).trace.output_tokens == 9


def test_a_wrong_answer_gains_nothing_by_being_short() -> None:
    assert reward(0, 1, 96) == 0
    assert reward(5, 346, 96) == pytest.approx(2.5)
    assert reward(5, 346, None) == 5


def test_the_uncertainty_is_the_gap_between_the_two_likeliest_tokens(device: str) -> None:
    logits = torch.tensor([[0.6, 0.4, 0.0], [0.6, 0.2, 0.2]], device=device).log()
    torch.testing.assert_close(margin_uncertainty(logits).cpu(), torch.tensor([0.8, 0.6]))


def test_advantages_have_no_mean_and_a_sample_deviation_of_one() -> None:
    values = advantages(torch.tensor([0.0, 1.0, 2.0, 5.0]))
    assert float(values.sum()) == pytest.approx(0, abs=1e-6)
    assert float(values.std(correction=1)) == pytest.approx(1, abs=1e-5)
    assert advantages(torch.tensor([3.0])).tolist() == [3.0]
    assert advantages(torch.full((8,), 2.0)).tolist() == [0.0] * 8


@pytest.mark.parametrize("easy", [1, 3, 20])
def test_an_easy_request_ends_at_its_budget(easy: int, device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=9)
    result = lvlm.run(request, [PixelThink(difficulty=3, easy=easy, hard=1, gain=0)])
    assert torch.equal(result.tokens_N, lvlm.run(request).tokens_N[:easy])


@pytest.mark.parametrize("lead", [0.0, 0.5, 1.0])
def test_a_hard_request_gets_more_tokens_as_the_model_is_unsure(lead: float) -> None:
    rest = (1 - lead) / 2
    row = torch.tensor([lead + rest, rest, 0.0]).log()
    technique = PixelThink(difficulty=7, hard=3, gain=4)
    ends = [n for n in range(1, 12) if technique.stop(Stop([0] * n, row.expand(n, 3)))]
    assert ends == list(range({0.0: 7, 0.5: 5, 1.0: 3}[lead], 12))


def test_the_uncertainty_is_that_of_all_tokens_so_far() -> None:
    sure, unsure = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log()
    technique = PixelThink(difficulty=7, hard=2, gain=2)
    assert technique.stop(Stop([0] * 3, torch.cat([unsure, sure, sure])))
    assert not technique.stop(Stop([0] * 3, torch.cat([unsure, unsure, sure])))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("difficulty", 11, r"difficulty must be in \[0, 10\]"),
        ("easy", 0, "easy must be at least 1"),
        ("hard", 0, "hard must be at least 1"),
        ("gain", -1, "gain must be at least 0"),
    ],
)
def test_illegal_parameters_are_refused(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelThink(**{name: value})  # type: ignore[arg-type]
