"""Looking an n-gram up in the text before it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.reference.ops.ngram import look_up


def test_a_copy_may_run_into_the_ngram_but_not_past_the_end() -> None:
    assert look_up(torch.tensor([1, 2, 3, 1, 2]), 2, 1, 9).tolist() == [3, 1, 2]
    assert look_up(torch.tensor([4, 4, 4]), 2, 1, 9).tolist() == [4]


@pytest.mark.parametrize("text", [[], [5], [5, 6, 7]])
def test_without_a_match_nothing_is_copied(text: list[int]) -> None:
    assert look_up(torch.tensor(text, dtype=torch.long), 3, 1, 4).tolist() == []


def test_a_least_length_is_heeded() -> None:
    text = torch.tensor([1, 2, 9, 3, 2])
    assert look_up(text, 2, 1, 2).tolist() == [9, 3]
    assert look_up(text, 2, 2, 2).tolist() == []
    assert look_up(text, 2, 3, 2).tolist() == []


@given(
    text=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    longest=st.integers(1, 5),
    count=st.integers(1, 6),
)
@settings(max_examples=150, deadline=None)
def test_it_equals_brute_force(text: list[int], longest: int, count: int) -> None:
    expected: list[int] = []
    for n in range(longest, 0, -1):
        starts = [i for i in range(len(text) - n) if text[i : i + n] == text[-n:]]
        if starts:
            expected = text[starts[0] + n : starts[0] + n + count]
            break
    assert look_up(torch.tensor(text), longest, 1, count).tolist() == expected


@given(
    text=st.lists(st.integers(0, 4), min_size=2, max_size=30),
    longest=st.integers(1, 4),
    count=st.integers(1, 6),
)
@settings(max_examples=80, deadline=None)
def test_it_equals_transformers(text: list[int], longest: int, count: int) -> None:
    module = pytest.importorskip("transformers.generation.candidate_generator")
    theirs = module.PromptLookupCandidateGenerator(
        num_output_tokens=count, max_matching_ngram_size=longest, max_length=1000
    )
    candidates, _ = theirs.get_candidates(torch.tensor([text]))
    assert look_up(torch.tensor(text), longest, 1, count).tolist() == candidates[0, len(text) :].tolist()
