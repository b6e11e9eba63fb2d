"""Speculative decoding in closed form, against brute force, the survey's table 10 and the engine's own rounds."""

from __future__ import annotations

from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.speculation import accepted_length, speedup
from lvlm_atlas.roofline.workload import Image, Workload

GAMMA = 10
TABLE_10 = {
    ("qwen2.5-vl-32b", "qwen2.5-vl-7b"): ((3.40, 1.40), (5.55, 2.04), (7.42, 2.61)),
    ("qwen2.5-vl-32b", "qwen2.5-vl-3b"): ((2.99, 0.97), (5.30, 1.64), (7.33, 2.11)),
    ("qwen2.5-vl-7b", "qwen2.5-vl-7b"): ((5.31, 1.26), (7.20, 1.61), (8.45, 1.80)),
}
"""Mean accepted length and speed-up of each pair of target and draft, as printed."""
ROWS = [(pair, *row) for pair, rows in TABLE_10.items() for row in rows]
SHARES = st.floats(0, 1)
LENGTHS = st.integers(0, 40)


def draft_cost(pair: tuple[str, str]) -> float:
    """One cost of a draft pass for all rows of a pair: a round yields length + 1 tokens and verifies in one step."""
    return mean(((length + 1) / gain - 1) / GAMMA for length, gain in TABLE_10[pair])


@given(SHARES, LENGTHS)
def test_the_accepted_length_is_the_mean_over_all_places_of_the_first_rejection(alpha: float, gamma: int) -> None:
    by_hand = sum(n * alpha**n * (1 - alpha) for n in range(gamma)) + gamma * alpha**gamma
    assert accepted_length(alpha, gamma) == pytest.approx(by_hand, abs=1e-6)


def test_nothing_is_accepted_of_a_hopeless_draft_and_everything_of_a_perfect_one() -> None:
    assert accepted_length(0, 7) == 0
    assert accepted_length(1, 7) == 7


@given(SHARES, SHARES, LENGTHS)
def test_a_better_draft_is_accepted_for_longer(one: float, two: float, gamma: int) -> None:
    low, high = sorted((one, two))
    assert accepted_length(low, gamma) <= accepted_length(high, gamma) + 1e-9


def test_the_bonus_token_makes_up_for_a_round_that_accepts_nothing() -> None:
    assert speedup(draft_length=4, accepted=0, draft_cost=0) == 1
    assert speedup(draft_length=4, accepted=4, draft_cost=0) == 5


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 2), st.floats(0.5, 3))
def test_longer_acceptance_is_never_slower(one: float, two: float, cost: float, verify: float) -> None:
    low, high = sorted((one, two))
    gains = [speedup(draft_length=10, accepted=each, draft_cost=cost, verify_cost=verify) for each in (low, high)]
    assert gains[0] <= gains[1]


@pytest.mark.parametrize(("pair", "length", "printed"), ROWS)
def test_one_draft_cost_a_pair_reproduces_every_speed_up_of_table_10(
    pair: tuple[str, str], length: float, printed: float
) -> None:
    ours = speedup(draft_length=GAMMA, accepted=length, draft_cost=draft_cost(pair))
    assert ours == pytest.approx(printed, rel=0.05)


def test_without_the_bonus_token_no_draft_cost_reproduces_table_10() -> None:
    for rows in TABLE_10.values():
        rounds = [length / gain for length, gain in rows]
        best = mean((min(rounds), max(rounds)))
        assert max(abs(length / best / gain - 1) for length, gain in rows) > 0.05


@pytest.mark.parametrize(("pair", "length", "printed"), ROWS)
def test_the_engine_s_own_rounds_reproduce_table_10(
    planner: Planner, pair: tuple[str, str], length: float, printed: float
) -> None:
    request = Workload(images=(Image(1280, 720, 3),), output_tokens=256)
    draft = f"speculative-sampling:gamma={GAMMA},accepted={length},draft_cost={draft_cost(pair)}"
    plain, fast = (planner.estimate(pair[0], "h200", request, stack=stack) for stack in ((), (draft,)))
    assert plain.tpot_s / fast.tpot_s == pytest.approx(printed, rel=0.05)


@pytest.mark.parametrize("model", ["qwen2.5-vl-32b", "qwen2.5-vl-7b"])
def test_the_roofline_verifies_eleven_tokens_in_the_time_of_one_within_a_hundredth(
    planner: Planner, model: str
) -> None:
    request = Workload(images=(Image(1280, 720, 3),), output_tokens=256)
    draft = f"speculative-sampling:gamma={GAMMA},accepted=0,draft_cost=0"
    plain, verify = (planner.estimate(model, "h200", request, stack=stack) for stack in ((), (draft,)))
    assert 1 < verify.tpot_s / plain.tpot_s < 1.01


@pytest.mark.parametrize(("accepted", "cost"), [(0.0, 0.3), (3.4, 0.219), (10.0, 0.05)])
def test_decoding_follows_the_closed_form(planner: Planner, accepted: float, cost: float) -> None:
    def tpot(*stack: str) -> float:
        return planner.estimate("qwen2.5-vl-7b", "h200", "images-20", stack=stack).tpot_s

    plain = tpot()
    verify = tpot(f"speculative-sampling:gamma={GAMMA},accepted=0,draft_cost=0") / plain
    found = plain / tpot(f"speculative-sampling:gamma={GAMMA},accepted={accepted},draft_cost={cost}")
    assert found == pytest.approx(speedup(draft_length=GAMMA, accepted=accepted, draft_cost=cost, verify_cost=verify))


def test_acceptance_and_accepted_length_say_the_same(planner: Planner) -> None:
    settings = ("acceptance=0.79", f"accepted={accepted_length(0.79, GAMMA)}")
    found = [
        planner.estimate("qwen2.5-vl-7b", "h200", stack=[f"speculative-sampling:gamma={GAMMA},{each}"]).tpot_s
        for each in settings
    ]
    assert found[0] == pytest.approx(found[1])


def test_what_the_entries_take_by_default_comes_from_the_first_row_of_table_10(planner: Planner) -> None:
    pair = ("qwen2.5-vl-32b", "qwen2.5-vl-7b")
    assert accepted_length(0.79, GAMMA) == pytest.approx(TABLE_10[pair][0][0], rel=0.01)
    length, gain = TABLE_10[pair][0]
    for id_, gamma in (("speculative-sampling", 4), ("specvlm-ji", 5)):
        default = planner.estimate("qwen2.5-vl-32b", "h200", "video-60s", stack=[id_]).state.answered.draft
        assert default.accepted == pytest.approx(accepted_length(0.79, gamma))
        assert default.cost == round(((length + 1) / gain - 1) / GAMMA, 3) == 0.214


def test_where_mismatches_are_accepted_by_chance_the_cost_is_the_mean_over_the_pairs_rows(planner: Planner) -> None:
    draft = planner.estimate("qwen2.5-vl-32b", "h200", "video-60s", stack=["relaxed-verification"]).state.answered.draft
    assert draft.cost == round(draft_cost(("qwen2.5-vl-32b", "qwen2.5-vl-7b")), 3) == 0.219


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: accepted_length(1.2, 4), "acceptance is 1.2; give a share from 0 to 1"),
        (lambda: accepted_length(float("nan"), 4), "acceptance is nan; give a share from 0 to 1"),
        (lambda: accepted_length(0.5, -1), "draft_length is -1; give a number of 0 or more"),
        (lambda: speedup(draft_length=4, accepted=-1, draft_cost=0.1), "accepted is -1; give a number of 0 or more"),
        (lambda: speedup(draft_length=4, accepted=5, draft_cost=0.1), "accepted is 5, but only 4 tokens are drafted"),
        (lambda: speedup(draft_length=4, accepted=1, draft_cost=-1), "draft_cost is -1; give a number of 0 or more"),
        (
            lambda: speedup(draft_length=4, accepted=1, draft_cost=0.1, verify_cost=0),
            "verify_cost is 0; give a number above 0",
        ),
    ],
)
def test_numbers_that_no_draft_has_are_refused(call: object, said: str) -> None:
    with pytest.raises(AtlasError, match=said.replace(".", r"\.")):
        call()  # type: ignore[operator]
