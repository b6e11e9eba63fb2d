"""ZipVL."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.ops.attention import attend, causal_mask, share_heads
from lvlm_atlas.reference.ops.blocks import Pairs, pair_attention
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.zipvl import ChosenTokens, ZipVL, important, probe_places


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def rows(values: list[list[float]], device: str) -> Tensor:
    """(1, 1, R, N)."""
    return torch.tensor(values, device=device)[None, None]


def kept(weight: Tensor, places: list[int], threshold: float) -> list[int]:
    return important(weight, torch.tensor(places, device=weight.device), threshold)[0].nonzero()[:, 0].tolist()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_probe_is_the_last_tokens_and_some_of_the_others() -> None:
    places = probe_places(100, 0.1, generator()).tolist()
    assert len(places) == len({*places}) == 10
    assert places[5:] == [95, 96, 97, 98, 99]
    assert places == sorted(places)
    assert places != probe_places(100, 0.1, generator(1)).tolist()
    assert probe_places(1, 0.1, generator()).tolist() == [0]
    assert probe_places(19, 0.1, generator()).tolist() == [18]  # half of 1.9 tokens, rounded up and down
    assert probe_places(7, 1.0, generator()).tolist() == [*range(7)]


def test_the_number_follows_sums_and_the_choice_means(device: str) -> None:
    # Rows 1, 2 and 3: sums 1.5, 0.9, 0.2 and 0.4 of 3; means over the rows that see them 0.5, 0.3, 0.1 and 0.4.
    weight = rows([[0.7, 0.3, 0, 0], [0.5, 0.4, 0.1, 0], [0.3, 0.2, 0.1, 0.4]], device)
    assert kept(weight, [1, 2, 3], 0.49) == [0]
    assert kept(weight, [1, 2, 3], 0.79) == [0, 3]  # two by the sums, 1.5 + 0.9; by the means 0 and 3
    assert kept(weight, [1, 2, 3], 0.81) == [0, 1, 3]
    assert kept(weight, [1, 2, 3], 1.0) == [0, 1, 2, 3]


def test_a_mean_is_over_the_probe_rows_that_see_a_token(device: str) -> None:
    # Token 4 is seen by one of two rows, by two of seven tokens of the prompt. Means: 0.25 and 0.4, sums 0.5 and 0.4.
    weight = rows([[0.3, 0.2, 0.3, 0.2, 0, 0], [0.2, 0.1, 0.1, 0.1, 0.4, 0.1]], device)
    assert kept(weight, [3, 5], 0.2) == [4]


@given(st.data())
@settings(max_examples=30)
def test_the_choice_is_that_of_a_loop(device: str, data: st.DataObject) -> None:
    length, heads = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    threshold = data.draw(st.sampled_from([0.3, 0.6, 0.9, 0.975]))
    logit = torch.randn(1, heads, length, length, generator=generator(data.draw(st.integers(0, 99)))).to(device)
    map_ = logit.masked_fill(~causal_mask(length, logit.device), float("-inf")).softmax(-1)
    places = probe_places(length, 0.5, generator(3))
    weight = map_[:, :, places]
    sums = [float(weight[..., j].sum()) for j in range(length)]
    means = [sums[j] / sum(r >= j for r in places.tolist()) for j in range(length)]
    number, reached = 0, 0.0
    for each in sorted(sums, reverse=True):
        if reached >= threshold * sum(sums):
            break
        number, reached = number + 1, reached + each
    expected = sorted(sorted(range(length), key=lambda j: -means[j])[:number])
    assert kept(weight, places.tolist(), threshold) == expected


def test_more_of_the_attention_takes_more_tokens(device: str) -> None:
    weight = torch.rand(1, 2, 8, 60, generator=generator()).to(device)
    counts = [len(kept(weight, [*range(52, 60)], tau)) for tau in (0.2, 0.5, 0.8, 0.95, 1.0)]
    assert counts == sorted(counts)
    assert counts[0] < 15
    assert 45 < counts[3] < counts[4] == 60


def test_others_neither_attend_nor_are_attended_to(device: str) -> None:
    query, key, value = (torch.randn(1, h, 7, 8, generator=generator(h)).to(device) for h in (4, 2, 2))
    keep = torch.tensor([[True, False, True, True, False, True, False]], device=device)
    out, scores = pair_attention(query, key, value, Pairs((keep[:, :, None] & keep[:, None])[:, None]))
    some = keep[0].nonzero()[:, 0]
    expected = attend(query[:, :, some], key[:, :, some], value[:, :, some], causal=True)
    torch.testing.assert_close(out[:, :, some], expected)
    assert not out[:, :, ~keep[0]].any()
    assert scores == 4 * 4 * 5 // 2
    assert not torch.allclose(out[:, :, some], share_heads(value, 4)[:, :, some])


def test_tokens_left_out_pass_on_and_may_return(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [ZipVL(threshold=0.6)]).trace
    assert trace.llm_tokens == [400] * 4
    assert trace.score_entries == [4 * n * (n + 1) // 2 for n in trace.kv_entries]  # the cache holds what attends
    assert any(later > earlier for earlier, later in zip(trace.kv_entries, trace.kv_entries[1:], strict=False))


def test_layers_choose_different_numbers(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [ZipVL(threshold=0.6)]).trace
    assert len({*trace.kv_entries}) > 1
    assert all(1 < n < 400 for n in trace.kv_entries)


def test_all_tokens_are_plain_attention(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    plain, same = lvlm.run(request), lvlm.run(request, [ZipVL(threshold=1.0)])
    torch.testing.assert_close(same.logits_NC, plain.logits_NC, atol=1e-4, rtol=1e-4)
    assert same.trace.kv_entries == plain.trace.kv_entries


def test_entries_must_be_those_of_the_tokens(lvlm: LVLM) -> None:
    chosen = ChosenTokens(ZipVL(), generator(), torch.ones(1, 9, dtype=torch.bool))
    states = torch.zeros(1, 2, 8, 4)
    entries = Entries(states, states, torch.ones(1, 2, 8, dtype=torch.bool), torch.arange(8).expand(1, 2, 8))
    with pytest.raises(Refusal, match="put it before"):
        chosen.compress_cache(CacheTokens(0, 4, entries, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.0}, {"threshold": 1.1}, {"probe_ratio": 0.0}, {"probe_ratio": 2.0}, {"seed": -1}]
)
def test_illegal_values_are_told(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ZipVL(**wrong)  # type: ignore[arg-type]
