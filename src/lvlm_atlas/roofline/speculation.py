"""Speculative decoding in closed form: what a draft and its acceptance bring (survey, table 10)."""

from __future__ import annotations

from lvlm_atlas.fault import AtlasError


def accepted_length(acceptance: float, draft_length: float) -> float:
    """Drafted tokens accepted in a round, on average, if each is accepted independently. The bonus token is not one.

    With it a round yields (1 − α^(γ+1)) / (1 − α) tokens (leviathan2023speculative, eq. 1).

    Args:
        acceptance: α, chance that a token is accepted given that those before it were.
        draft_length: γ, tokens drafted in a round.

    Raises:
        AtlasError: α is no share, or γ is negative.
    """
    if not 0 <= acceptance <= 1:
        raise AtlasError(f"acceptance is {acceptance!r}; give a share from 0 to 1")
    if not draft_length >= 0:
        raise AtlasError(f"draft_length is {draft_length!r}; give a number of 0 or more")
    if acceptance == 1:
        return draft_length
    return float((1.0 - acceptance ** (draft_length + 1)) / (1 - acceptance) - 1)


def speedup(*, draft_length: float, accepted: float, draft_cost: float, verify_cost: float = 1.0) -> float:
    """How many times faster decoding gets: tokens of a round over its time in plain steps.

    The target's own bonus token counts: a round yields `accepted` + 1 tokens.

    Args:
        draft_length: γ, passes of the draft in a round.
        accepted: drafted tokens accepted in a round, on average.
        draft_cost: c, time of a draft pass in plain steps of the target.
        verify_cost: time of the verifying pass in plain steps.

    Raises:
        AtlasError: a number is negative, or more is accepted than drafted.
    """
    for name, number in (("draft_length", draft_length), ("accepted", accepted), ("draft_cost", draft_cost)):
        if not number >= 0:
            raise AtlasError(f"{name} is {number!r}; give a number of 0 or more")
    if accepted > draft_length:
        raise AtlasError(f"accepted is {accepted:g}, but only {draft_length:g} tokens are drafted; give at most that")
    if not verify_cost > 0:
        raise AtlasError(f"verify_cost is {verify_cost!r}; give a number above 0")
    return (accepted + 1) / (draft_length * draft_cost + verify_cost)
